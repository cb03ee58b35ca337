"""The service's description of itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import ValidationError

from api.server.app import create_app
from jobs.model.spec import JobSpec
from jobs.settings import Settings


@pytest.fixture(scope="module")
def app_and_description(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    app = create_app(Settings(storage_url=Path(tmp_path_factory.mktemp("runs")).as_uri()))
    return app, app.test_client().get("/v1/openapi.json").get_json()


def test_every_call_of_the_service_is_described_and_no_other(
    app_and_description: tuple[Any, dict[str, Any]],
) -> None:
    app, description = app_and_description
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    described = {
        (path, method.upper())
        for path, methods in description["paths"].items()
        for method in methods
    }
    assert served == described


def test_every_reference_leads_somewhere_and_every_operation_has_its_own_name(
    app_and_description: tuple[Any, dict[str, Any]],
) -> None:
    _, description = app_and_description
    schemas = description["components"]["schemas"]
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(description)):
        assert reference.removeprefix("#/components/schemas/") in schemas
    operations = [call for path in description["paths"].values() for call in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] for operation in operations)


def test_every_field_parameter_and_header_has_a_description(
    app_and_description: tuple[Any, dict[str, Any]],
) -> None:
    _, description = app_and_description
    schemas = description["components"]["schemas"]
    operations = [call for path in description["paths"].values() for call in path.values()]
    bare = [
        f"{model}.{name}"
        for model, schema in schemas.items()
        for name, field in schema.get("properties", {}).items()
        if not field.get("description") and "$ref" not in field  # the model's own, if equal
    ]
    bare += [model for model, schema in schemas.items() if not schema.get("description")]
    for call in operations:
        headers: dict[str, Any] = {}
        for answer in call["responses"].values():
            headers |= answer.get("headers", {})
        bare += [p["name"] for p in call["parameters"] if not p.get("description")]
        bare += [name for name, header in headers.items() if not header["description"]]
    assert bare == []
    parameters = description["paths"]["/v1/jobs"]["get"]["parameters"]
    assert {p["name"]: p["schema"].get("type") for p in parameters}["label"] == "array"


def test_every_field_that_holds_a_time_or_a_size_names_its_unit(
    app_and_description: tuple[Any, dict[str, Any]],
) -> None:
    _, description = app_and_description
    units = {"_seconds": "second", "_at": "seconds since the epoch", "_bytes": "ytes"}
    for model, schema in description["components"]["schemas"].items():
        for name, field in schema.get("properties", {}).items():
            unit = next((unit for end, unit in units.items() if name.endswith(end)), "")
            assert unit in field.get("description", ""), f"{model}.{name}"


def test_the_description_is_valid_openapi(
    app_and_description: tuple[Any, dict[str, Any]],
) -> None:
    _, description = app_and_description
    assert description["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(description).validate()


@pytest.mark.parametrize(
    ("work", "valid"),
    [
        ({"train": {}}, True),
        ({"command": ["true"]}, True),
        ({"train": None, "command": ["true"]}, True),
        ({"train": {}, "command": ["true"]}, False),
        ({"train": None, "command": None}, False),
        ({}, False),
    ],
)
def test_the_schema_of_a_job_wants_exactly_one_of_train_and_command(
    app_and_description: tuple[Any, dict[str, Any]], work: dict[str, Any], valid: bool
) -> None:
    _, description = app_and_description
    schema = {**description, "$ref": "#/components/schemas/JobSpec"}
    job = {"name": "a", **work}
    assert Draft202012Validator(schema).is_valid(job) == valid
    try:
        given = JobSpec.model_validate_json(json.dumps(job))
    except ValidationError:
        assert not valid
    else:
        answered = json.loads(given.model_dump_json())
        assert Draft202012Validator(schema).is_valid(answered), "as answers have it"


def test_errors_are_described_as_problems(
    app_and_description: tuple[Any, dict[str, Any]],
) -> None:
    _, description = app_and_description
    responses = description["paths"]["/v1/jobs"]["post"]["responses"]
    assert {"201", "400", "401", "409", "413", "415", "422", "503"} <= set(responses)
    assert set(responses["422"]["content"]) == {"application/problem+json"}
    assert set(responses["201"]["headers"]) == {"Location"}


def test_probes_are_open_and_the_rest_may_ask_for_a_token(
    app_and_description: tuple[Any, dict[str, Any]],
) -> None:
    _, description = app_and_description
    assert description["paths"]["/healthz"]["get"]["security"] == []
    assert {"token": []} in description["paths"]["/v1/jobs"]["get"]["security"]


def test_a_name_of_a_label_that_is_refused_does_not_fit_the_description(
    app_and_description: tuple[Any, dict[str, Any]],
) -> None:
    schemas = app_and_description[1]["components"]["schemas"]
    for name in ("JobSpec", "JobSpec-Input"):
        if name in schemas:
            labels = Draft202012Validator(schemas[name]["properties"]["labels"])
            assert labels.is_valid({"team": "waves"})
            assert not labels.is_valid({"Team!": "waves"})


def test_a_file_of_a_run_may_be_of_any_type(
    app_and_description: tuple[Any, dict[str, Any]],
) -> None:
    path = app_and_description[1]["paths"]["/v1/jobs/{job_id}/artifacts/{path}"]["get"]
    assert set(path["responses"]["200"]["content"]) == {"*/*"}
    assert {"206", "302", "304", "416"} <= path["responses"].keys()
