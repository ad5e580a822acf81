"""What the OpenAPI document says is what comes, whatever is sent."""

import pytest

pytest.importorskip("fastapi")
schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import running, settings_for  # noqa: E402

from gem_rag.server.settings import Limits  # noqa: E402

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def described(tiny_checkpoint, tmp_path_factory):
    home = tmp_path_factory.mktemp("contract") / "home"
    limits = Limits(answer_tokens=4, answers=2)
    # From elsewhere: or "/" would be watched when somebody thinks of that folder.
    headers = {"X-Forwarded-For": "192.0.2.1"}
    with running(settings_for(home, tiny_checkpoint, limits=limits), headers=headers) as server:
        server.upload(("kettle.txt", b"The kettle has a warranty of seven years."))
        server.all_ready(1)
        found = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        found.config.update(headers=headers)
        yield found.exclude(path="/api/events")  # which does not end


def require_kept(operation, mode, examples):
    """Ask for one operation in many ways; what comes has to be described."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    def asked(case):
        case.call_and_validate(checks=CHECKS)

    asked()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_one_that_was_promised(described, mode):
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) > 25
    for operation in operations:
        try:
            require_kept(operation, mode, examples=4)
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # nothing can be wrong with it
