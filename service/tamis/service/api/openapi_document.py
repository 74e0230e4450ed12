"""The OpenAPI 3.1 document of the application: the framework's, completed by bodies, problems and API keys."""

from __future__ import annotations

import json
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from tamis.selectors.schema.request import Manifest
from tamis.service.api.access import scope_of
from tamis.service.api.problems import Problem, Unauthorized
from tamis.service.job_state import JobState
from tamis.service.schema import JobRequest, RoundAnswers

BODIES: Final = (JobRequest, Manifest, RoundAnswers)
"""Shapes of bodies that endpoints read by themselves: the framework does not know them."""

SECURITY: Final = "apiKey"
SECURITY_SCHEME: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, made with `tamis keys create`. None is asked for on a loopback address as long as none "
    "was ever made. Looking needs the scope `read`, everything else `submit`; `admin` is both, for every owner's jobs.",
}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of `app`, the bodies and problems included; cached on the app."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            description=app.description,
            license_info=app.license_info,
            routes=app.routes,
            separate_input_output_schemas=False,
        )
        _, shapes = models_json_schema(
            [*((body, "validation") for body in BODIES), (Problem, "serialization")],
            ref_template="#/components/schemas/{model}",
        )
        schemas = document["components"]["schemas"]
        schemas.update(shapes["$defs"])
        for unused in ("HTTPValidationError", "ValidationError", JobState.__name__):
            schemas.pop(unused, None)
        document["components"]["securitySchemes"] = {SECURITY: SECURITY_SCHEME}
        for path in document["paths"].values():
            for method, operation in path.items():
                if str(Unauthorized.status) in operation["responses"]:
                    operation["security"] = [{SECURITY: [str(scope_of(method.upper()))]}]
                # The framework's own idea of a 422; what really answers is declared by each endpoint.
                declared = operation["responses"].get("422", {})
                if "HTTPValidationError" in json.dumps(declared):
                    del operation["responses"]["422"]
        app.openapi_schema = document
    return app.openapi_schema
