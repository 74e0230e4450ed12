"""Endpoints of the selectors and of registered datasets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from tamis.selectors.errors import InputsChanged, Invalid, NotFound, UnknownSelector
from tamis.selectors.schema.request import Manifest
from tamis.service.api.access import CallerDep, key_dependency
from tamis.service.api.bodies import Body, json_body, request_body
from tamis.service.api.context import ServiceDep
from tamis.service.api.problems import error_responses
from tamis.service.api.resources import dataset_resource
from tamis.service.schema import MAX_PAGE, DatasetList, DatasetResource, SelectorList, SelectorResource

router = APIRouter(prefix="/v1", dependencies=key_dependency)

DEFAULT_PAGE = 50

ManifestBody = Annotated[Body[Manifest], Depends(json_body(Manifest))]


@router.get("/selectors", tags=["selectors"], summary="List the selectors", responses=error_responses())
def list_selectors() -> SelectorList:
    """Return the catalogue: purpose, needs and cost of each selector, and the JSON Schema of its parameters."""
    from tamis.selectors.jobs.catalogue import catalogue

    return SelectorList(items=[SelectorResource.model_validate(info.model_dump()) for info in catalogue()])


@router.get("/selectors/{name}", tags=["selectors"], summary="Look at a selector", responses=error_responses(404))
def get_selector(name: str) -> SelectorResource:
    """Give one entry of the catalogue."""
    from tamis.selectors.jobs.catalogue import info

    try:
        return SelectorResource.model_validate(info(name).model_dump())
    except UnknownSelector as error:
        raise NotFound(error.detail) from error


@router.post(
    "/datasets",
    status_code=201,
    tags=["datasets"],
    summary="Register a dataset",
    responses=error_responses(
        400,
        403,
        409,
        413,
        415,
        422,
        503,
        more={200: {"model": DatasetResource, "description": "The same dataset was registered before."}},
    ),
    openapi_extra=request_body(Manifest),
)
def register(service: ServiceDep, caller: CallerDep, body: ManifestBody, response: Response) -> DatasetResource:
    """Register a manifest, to refer to it by id; only footers and headers of its files are read."""
    from tamis.selectors.datasets import Dataset

    try:
        dataset = Dataset.open(body.shape, service.environment().storage, needs=(), pointer="")
    except InputsChanged as error:
        raise Invalid(f"{error.detail} Send the request again.", pointer="/shards", **error.where) from error
    registration = service.store.datasets.register(
        owner=caller.owner,
        manifest=dataset.resolved().model_dump(mode="json", exclude_none=True),
        digest=dataset.digest,
        rows=dataset.rows,
        shards=len(dataset.shards),
        bytes=dataset.bytes,
    )
    resource = dataset_resource(registration.dataset)
    response.status_code = 201 if registration.created else 200
    response.headers["Location"] = resource.links.self
    return resource


@router.get("/datasets", tags=["datasets"], summary="List datasets", responses=error_responses(400))
def list_datasets(
    service: ServiceDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE,
    cursor: Annotated[str | None, Query(max_length=1000, description="As given in next_cursor.")] = None,
) -> DatasetList:
    """Give datasets, newest first."""
    page = service.store.datasets.list(owner=caller.visible_owner, limit=limit, cursor=cursor)
    return DatasetList(items=[dataset_resource(item) for item in page.items], next_cursor=page.next_cursor)


@router.get("/datasets/{dataset_id}", tags=["datasets"], summary="Look at a dataset", responses=error_responses(404))
def get_dataset(service: ServiceDep, caller: CallerDep, dataset_id: str) -> DatasetResource:
    """Show a registered dataset."""
    return dataset_resource(service.store.datasets.get(dataset_id, owner=caller.visible_owner))


@router.delete(
    "/datasets/{dataset_id}",
    status_code=204,
    tags=["datasets"],
    summary="Forget a dataset",
    responses=error_responses(404, 409),
)
def delete_dataset(service: ServiceDep, caller: CallerDep, dataset_id: str) -> None:
    """Forget a dataset that no active job uses; its files are not touched."""
    service.store.datasets.get(dataset_id, owner=caller.visible_owner)
    service.store.datasets.delete(dataset_id)
