"""`tamis keys`: make, list and revoke API keys, in the database that TAMIS_HOME or TAMIS_DATABASE_URL names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tamis.service.cli import output

if TYPE_CHECKING:
    from tamis.service.store import ApiKey, Store

keys = typer.Typer(
    name="keys", no_args_is_help=True, help="Make, list and revoke API keys of the service of this home."
)

DAY_SECONDS: Final = 86400.0
DEFAULT_SCOPES: Final = ["read", "submit"]
SCOPES: Final = ("read", "submit", "admin")

_OWNER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


@keys.command()
def create(
    owner: Annotated[str, typer.Argument(help="Whose jobs and datasets the key makes and sees: a person or a team.")],
    scope: Annotated[
        list[str], typer.Option(help="read, submit or admin (both, for every owner's jobs); may be repeated.")
    ] = DEFAULT_SCOPES,
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires; never when left out.")] = None,
    note: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="Make a key of the token in this file (`tamis keys token`); one that is there already stays as it is.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")] = False,
) -> None:
    """Make a key and write it to stdout: this once, for only its digest is stored."""
    from tamis.service.store import Scope

    if not _OWNER.fullmatch(owner):
        raise typer.BadParameter("letters, digits, '.', '_', '@' and '-' are possible", param_hint="OWNER")
    unknown = sorted(set(scope) - set(SCOPES))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(SCOPES)}", param_hint="--scope")
    with _store() as store:
        try:
            made = store.keys.create(
                owner=owner,
                scopes={Scope(one) for one in scope},
                note=note,
                lifetime=None if days is None else days * DAY_SECONDS,
                token=None if token_file is None else token_file.read_text("ascii", "replace").strip(),
            )
        except ValueError as error:
            raise typer.BadParameter(f"{token_file} holds no token", param_hint="--token-file") from error
    if json:
        output.machine(_document(made.key) | ({} if token_file else {"token": made.token}))
    elif token_file is not None:
        output.console.print(f"The token of {token_file} is {made.key.id} of {made.key.owner}.", markup=False)
    else:
        typer.echo(made.token)
        output.console.print(
            f"{made.key.id} of {owner}, shown this once. Set TAMIS_API_KEY, or send it as 'Authorization: Bearer …'.",
            markup=False,
        )


@keys.command()
def token() -> None:
    """Write a new token to stdout, for a secret's file. It is no key until `create --token-file` makes it one."""
    from tamis.service.store.keys import new_token

    typer.echo(new_token())


@keys.command("list")
def list_keys(json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")] = False) -> None:
    """List all keys, the expired and revoked ones too."""
    with _store() as store:
        found = store.keys.list()
    output.machine([_document(key) for key in found]) if json else output.show_keys(found)


@keys.command()
def revoke(key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id: key_…")]) -> None:
    """End a key at once. Keys stay required even when the last one was revoked."""
    with _store() as store:
        store.keys.revoke(key)
    output.console.print(f"Revoked {key}", markup=False)


@keys.command("webhook-secret")
def webhook_secret(
    owner: Annotated[str, typer.Argument(help="Whose callbacks it signs; 'local' where no key is asked for.")],
    renew: Annotated[bool, typer.Option("--renew", help="Make a new one; the old one signs nothing any more.")] = False,
) -> None:
    """Write the secret that an owner's callbacks are signed with to stdout."""
    with _store() as store:
        typer.echo(store.callbacks.secret(owner, renew=renew))


@contextmanager
def _store() -> Iterator[Store]:
    from tamis.service.settings import Settings
    from tamis.service.store import Store

    store = Store(Settings.from_environment().database_url)
    try:
        store.migrate()
        yield store
    finally:
        store.close()


def _document(key: ApiKey) -> dict[str, Any]:
    from tamis.service.api.resources import moment

    times = {name: moment(getattr(key, name)) for name in ("created_at", "expires_at", "revoked_at")}
    return {
        "id": key.id,
        "owner": key.owner,
        "scopes": sorted(key.scopes),
        "note": key.note,
        **{name: None if at is None else at.isoformat() for name, at in times.items()},
    }
