"""The application: routes, errors, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI

from tamis.service.api import catalogue, health, jobs, problems, questions, results
from tamis.service.api.context import Service
from tamis.service.api.metrics import Metrics
from tamis.service.api.middleware import ObserveRequests
from tamis.service.api.openapi_document import describe
from tamis.service.callbacks.delivery import Deliverer
from tamis.service.settings import Settings
from tamis.service.store import Store

DESCRIPTION = """\
Data selection and coresets as a service: submit a job (a dataset, a target, a selector and a budget), follow it, and
download the selected rows with the evidence that they are good. The data never moves.

Every error is an RFC 9457 problem (`application/problem+json`) whose `code` and `type` are stable."""

ROUTERS = (jobs.router, questions.router, results.router, catalogue.router, health.router)


def create_app(settings: Settings, *, keys_required: bool = False, names: Collection[str] = ()) -> FastAPI:
    """Make the application.

    Parameters
    ----------
    settings : Settings
        Its database is migrated and its folders are created when the application starts.
    keys_required : bool
        Require an API key even when none was ever made; otherwise from the first one on. Needed wherever
        others than this machine's users can connect.
    names : collection of str
        Host names, besides ``localhost``, that requests without a key may be sent to.
    """
    store = Store(settings.database_url, running_per_owner=settings.running_per_owner)
    service = Service(settings, store, keys_required, frozenset(name.casefold() for name in names))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings.create_folders()
        store.migrate()
        # The selectors' library takes a second to load: nobody should wait for it, nor the start.
        threading.Thread(target=_load_selectors, name="load-selectors", daemon=True).start()
        deliverer = Deliverer(store, settings.callback_hosts)
        delivering = asyncio.create_task(deliverer.run(service.draining))
        yield
        service.draining.set()
        delivering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await delivering
        service.resolvers.shutdown(wait=False, cancel_futures=True)
        store.close()

    app = FastAPI(
        title="Tamis",
        version=version("tamis"),
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,  # their scripts would come from another host
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        telemetry={"tracing": False},  # `ObserveRequests` opens the request's span, which log lines and jobs name
    )
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    app.state.service = service
    app.state.metrics = Metrics(store)
    app.state.routes = [route for router in ROUTERS for route in router.routes]
    for router in ROUTERS:
        app.include_router(router)
    problems.register(app)
    app.add_middleware(ObserveRequests, metrics=app.state.metrics)
    return app


def _load_selectors() -> None:
    from tamis.selectors.jobs.catalogue import catalogue

    catalogue()
