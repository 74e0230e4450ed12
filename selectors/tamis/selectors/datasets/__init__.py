"""Datasets: manifests over shards of Parquet, Arrow IPC and JSON lines, read by role in bounded batches."""

from tamis.selectors.datasets.batch import RoleBatch
from tamis.selectors.datasets.columns import RoleColumn, RoleColumns
from tamis.selectors.datasets.dataset import Dataset
from tamis.selectors.datasets.shard import Shard, Unit
from tamis.selectors.datasets.storage.local import LocalStorage, Storage, StoredFile
from tamis.selectors.datasets.storage.roots import open_storage

__all__ = [
    "Dataset",
    "LocalStorage",
    "RoleBatch",
    "RoleColumn",
    "RoleColumns",
    "Shard",
    "Storage",
    "StoredFile",
    "Unit",
    "open_storage",
]
