"""`docs/api.json` says what the schema says."""

import json

from weavepy.client import document, schema


def test_the_document_is_up_to_date() -> None:
    written = document.DEFAULT_FILE.read_text(encoding="utf-8")
    assert written == document.render(), "run `python -m weavepy.client.document`"


def test_every_endpoint_of_the_table_is_in_it() -> None:
    assert schema.__doc__ is not None
    rows = [line for line in schema.__doc__.splitlines() if "/v1/" in line]
    operations = [
        (method.upper(), path)
        for path, methods in document.document()["paths"].items()
        for method in methods
    ]
    assert len(operations) == len(rows) == 35
    assert ("POST", "/v1/ipam/claim") in operations


def test_all_that_the_table_names_exists() -> None:
    for _, _, request, answer in document.endpoints():
        assert issubclass(getattr(schema, answer), schema.Struct)
        assert not request or issubclass(getattr(schema, request), schema.Struct)


def test_a_reference_never_leads_nowhere() -> None:
    described = document.document()
    text = json.dumps(described)
    for part in text.split('"$ref": "#/')[1:]:
        found = described
        for step in part.partition('"')[0].split("/"):
            found = found[step]


def test_members_carry_the_words_of_the_source() -> None:
    schemas = document.document()["components"]["schemas"]
    described = schemas["Attachment"]["properties"]["addresses"]
    assert described["description"] == 'Each "ADDRESS/LENGTH".'
