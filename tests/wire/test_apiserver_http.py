"""The emulated API server as raw HTTP: tokens, statuses, media types, pages, watches, tables, hostile bodies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.builders.apiserver import config_map, job, pod, widget_crd
from tests.builders.http_apiserver import Client, serving

MAPS = "/api/v1/namespaces/default/configmaps"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    async with serving(bookmark_seconds=0.05) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "token", "want"),
    [
        ("/healthz", None, 200),
        ("/readyz", None, 200),
        ("/livez", None, 200),
        ("/version", None, 200),
        ("/api", None, 401),
        ("/apis/batch/v1/jobs", None, 401),
        ("/openapi/v3", None, 401),
        ("/api", "wrong", 401),
        ("/api", "wire-test-token", 200),
        ("/apis/none/v1/things", "wire-test-token", 404),
        ("/nothing", "wire-test-token", 404),
    ],
)
async def test_only_the_token_opens(client: Client, path: str, token: str | None, want: int) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(client.server.url + path) as response:
        assert response.status == want
        if want == 401:
            body = await response.json()
            assert (body["kind"], body["reason"], body["code"]) == ("Status", "Unauthorized", 401)


async def test_create_read_replace_delete(client: Client) -> None:
    status, made = await client.call("POST", MAPS, config_map(a="1"))
    assert status == 201
    status, body = await client.call("POST", MAPS, config_map(a="1"))
    assert (status, body["reason"]) == (409, "AlreadyExists")
    assert body["details"] == {"name": "c", "kind": "configmaps"}
    status, changed = await client.call("PUT", f"{MAPS}/c", {**made, "data": {"a": "2"}})
    assert (status, changed["data"]) == (200, {"a": "2"})
    status, body = await client.call("PUT", f"{MAPS}/c", {**made, "data": {"a": "3"}})
    assert (status, body["reason"]) == (409, "Conflict")
    status, body = await client.call("DELETE", f"{MAPS}/c", {"preconditions": {"uid": "other"}})
    assert status == 409
    status, body = await client.call("DELETE", f"{MAPS}/c")
    assert (status, body["status"]) == (200, "Success")
    status, body = await client.call("GET", f"{MAPS}/c")
    assert (status, body["message"]) == (404, 'configmaps "c" not found')


async def test_refusals_name_each_field(client: Client) -> None:
    body = job(managedBy="federation", parallelism=-1)
    status, refused = await client.call("POST", JOBS, body)
    assert (status, refused["reason"]) == (422, "Invalid")
    fields = {cause["field"] for cause in refused["details"]["causes"]}
    assert fields == {"spec.managedBy", "spec.parallelism"}


async def test_field_validation_and_dry_run(client: Client) -> None:
    body = {**config_map(), "dat": {}}
    status, refused = await client.call("POST", f"{MAPS}?fieldValidation=Strict", body)
    assert (status, 'unknown field "dat"' in refused["message"]) == (400, True)
    async with client.session.post(f"{client.server.url}{MAPS}?dryRun=All", json=body) as response:
        assert response.status == 201
        assert response.headers["Warning"] == '299 - "unknown field \\"dat\\""'
    assert (await client.call("GET", f"{MAPS}/c"))[0] == 404
    assert (await client.call("POST", f"{MAPS}?dryRun=Some", config_map()))[0] == 400


@pytest.mark.parametrize(
    ("body", "media", "want"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}', "application/json", 400),
        (b'{"metadata":{"name":"x"},"data":{"a":1}}', "application/json", 400),
        (b'{"metadata":[]}', "application/json", 400),
        (b'{"metadata":{"name":' + b"[" * 900 + b"]" * 900 + b"}}", "application/json", 400),
        (b'{"metadata":{"name":"x"}}', "text/plain", 415),
        (b"metadata: {name: yaml}", "application/yaml", 201),
        (b"metadata: !!python/object/apply:os.getcwd []", "application/yaml", 400),
        (b"a: [", "application/yaml", 400),
        (b"\xff\xfe", "application/yaml", 400),
        (b'{"metadata":{"name":"x"},"data":{"a":"' + b"x" * (3 * 1024 * 1024) + b'"}}', "application/json", 413),
    ],
)
async def test_bodies_that_are_no_object(client: Client, body: bytes, media: str, want: int) -> None:
    status, answer = await client.call("POST", MAPS, body, media)
    assert status == want, answer
    assert answer["kind"] == ("ConfigMap" if want == 201 else "Status")


@pytest.mark.parametrize(
    ("media", "patch", "want"),
    [
        (MERGE, {"data": {"a": None, "b": "2"}}, {"b": "2"}),
        ("application/json-patch+json", [{"op": "add", "path": "/data/b", "value": "2"}], {"a": "1", "b": "2"}),
        ("application/strategic-merge-patch+json", {"data": {"b": "2"}}, {"a": "1", "b": "2"}),
        ("application/json", {"data": {}}, 415),
        (MERGE, {"metadata": {"resourceVersion": "1"}}, 409),
        (MERGE, {"metadata": {"uid": "other"}}, 422),
        (MERGE, {"metadata": {"name": "d"}}, 400),
        (MERGE, [], 400),
    ],
)
async def test_patches(client: Client, media: str, patch: Any, want: Any) -> None:
    await client.call("POST", MAPS, config_map(a="1"))
    status, body = await client.call("PATCH", f"{MAPS}/c", patch, media)
    if isinstance(want, int):
        assert (status, body["kind"]) == (want, "Status")
    else:
        assert (status, body["data"]) == (200, want)


async def test_server_side_apply(client: Client) -> None:
    body = config_map(a="1")
    assert (await client.call("PATCH", f"{MAPS}/c", body, APPLY))[0] == 400
    status, made = await client.call("PATCH", f"{MAPS}/c?fieldManager=one", body, APPLY)
    assert status == 201
    yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '2'}\n"
    status, refused = await client.call("PATCH", f"{MAPS}/c?fieldManager=two", yaml, APPLY)
    assert (status, refused["details"]["causes"][0]["message"]) == (409, 'conflict with "one"')
    status, taken = await client.call("PATCH", f"{MAPS}/c?fieldManager=two&force=true", yaml, APPLY)
    assert (status, taken["data"]) == (200, {"a": "2"})
    assert taken["metadata"]["uid"] == made["metadata"]["uid"]


async def test_pages_and_expired_tokens(client: Client) -> None:
    for index in range(5):
        await client.call("POST", MAPS, config_map(f"c{index}"))
    _, first = await client.call("GET", f"{MAPS}?limit=2")
    assert first["metadata"]["remainingItemCount"] == 3
    token = first["metadata"]["continue"]
    await client.call("DELETE", f"{MAPS}/c2")
    _, second = await client.call("GET", f"{MAPS}?limit=2&continue={token}")
    assert [item["metadata"]["name"] for item in second["items"]] == ["c2", "c3"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    client.server.store.compact()
    status, body = await client.call("GET", f"{MAPS}?limit=2&continue={token}")
    assert (status, body["reason"]) == (410, "Expired")
    assert (await client.call("GET", f"{MAPS}?limit=2&continue=nonsense"))[0] == 400
    assert (await client.call("GET", f"{MAPS}?resourceVersion=999999"))[0] == 504
    assert (await client.call("GET", f"{MAPS}?limit=-1"))[0] == 400


async def test_selectors(client: Client) -> None:
    body = pod("one", nodeName="n1")
    body["metadata"]["labels"] = {"tier": "a"}
    await client.call("POST", "/api/v1/namespaces/default/pods", body)
    await client.call("POST", "/api/v1/namespaces/default/pods", pod("two"))

    async def names(query: str) -> list[str]:
        status, found = await client.call("GET", f"/api/v1/pods?{query}")
        assert status == 200, found
        return [item["metadata"]["name"] for item in found["items"]]

    assert await names("fieldSelector=spec.nodeName%3Dn1") == ["one"]
    assert await names("fieldSelector=spec.nodeName%3D,status.phase%21%3DRunning") == ["two"]
    assert await names("labelSelector=tier+in+(a,b)") == ["one"]
    assert await names("labelSelector=%21tier&fieldSelector=metadata.namespace%3Ddefault") == ["two"]
    status, body = await client.call("GET", "/api/v1/pods?fieldSelector=spec.colour%3Dred")
    assert (status, "is not a known field selector" in body["message"]) == (400, True)


async def test_watch_from_now_from_then_and_from_too_long_ago(client: Client) -> None:
    await client.call("POST", MAPS, config_map("before"))
    _, listed = await client.call("GET", MAPS)
    version = listed["metadata"]["resourceVersion"]
    await client.call("POST", MAPS, config_map("after"))
    async with asyncio.timeout(10):
        async with client.watch(f"{MAPS}?watch=true&resourceVersion={version}") as events:
            first = await anext(events)
            await client.call("DELETE", f"{MAPS}/after")
            second = await anext(events)
        assert [(e["type"], e["object"]["metadata"]["name"]) for e in (first, second)] == [
            ("ADDED", "after"),
            ("DELETED", "after"),
        ]
        async with client.watch(f"{MAPS}?watch=true&resourceVersion=0") as events:
            assert (await anext(events))["object"]["metadata"]["name"] == "before"
        client.server.store.compact()
        async with client.watch(f"{MAPS}?watch=true&resourceVersion={version}") as events:
            gone = await anext(events)
            assert (gone["type"], gone["object"]["code"], gone["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_bookmarks_streaming_lists_and_time_limits(client: Client) -> None:
    await client.call("POST", MAPS, config_map())
    query = (
        "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1"
    )
    async with asyncio.timeout(10), client.watch(f"{MAPS}?{query}") as events:
        seen = [event async for event in events]
    assert [event["type"] for event in seen[:2]] == ["ADDED", "BOOKMARK"]
    assert seen[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert len(seen) > 5
    assert {event["type"] for event in seen[2:]} == {"BOOKMARK"}
    assert seen[-1]["object"]["metadata"]["resourceVersion"] == str(client.server.store.resource_version)


async def test_a_stopping_server_ends_its_watches() -> None:
    async with serving() as client, asyncio.timeout(10), client.watch(f"{MAPS}?watch=true") as events:
        await client.call("POST", MAPS, config_map())
        assert (await anext(events))["type"] == "ADDED"
        stopping = asyncio.create_task(client.server.stop())
        assert [event async for event in events] == []
        await stopping


async def test_tables_and_columns(client: Client) -> None:
    await client.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", widget_crd())
    path = "/apis/example.com/v1/namespaces/default/widgets"
    status, _ = await client.call("POST", path, {"metadata": {"name": "w"}, "spec": {"size": 3}})
    assert status == 201
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    async with client.session.get(client.server.url + path, headers=headers) as response:
        table = await response.json()
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Size"]
    assert table["rows"][0]["cells"] == ["w", 3]
    async with client.session.get(client.server.url + "/api/v1/namespaces/default", headers=headers) as response:
        assert (await response.json())["rows"][0]["cells"] == ["default", "Active", "0s"]


async def test_delete_collection_and_missing_paths(client: Client) -> None:
    for name in ("a", "b"):
        body = config_map(name)
        body["metadata"]["labels"] = {"name": name}
        await client.call("POST", MAPS, body)
    assert (await client.call("DELETE", f"{MAPS}?labelSelector=name%3Da"))[0] == 200
    _, left = await client.call("GET", MAPS)
    assert [item["metadata"]["name"] for item in left["items"]] == ["b"]
    assert (await client.call("POST", "/api/v1/configmaps", config_map()))[0] == 405
    assert (await client.call("GET", f"{MAPS}/b/status"))[0] == 404
    assert (await client.call("PATCH", MAPS, {}, MERGE))[0] == 405
    assert (await client.call("GET", "/api/v1/namespaces/default/nodes"))[0] == 404
    status, body = await client.call("GET", "/api/v1/namespaces/default/pods/none/log")
    assert (status, body["reason"]) == (404, "NotFound")


async def test_reviews(client: Client) -> None:
    spec = {"spec": {"resourceAttributes": {"verb": "create", "resource": "jobs"}}}
    status, body = await client.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", spec)
    assert (status, body["status"]["allowed"]) == (201, True)
    status, body = await client.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert (status, body["status"]["userInfo"]["username"]) == (201, "sandbox-admin")


async def test_discovery_and_openapi_agree_with_what_is_served(client: Client) -> None:
    await client.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", widget_crd())
    _, groups = await client.call("GET", "/apis")
    paths = ["/api/v1", *(f"/apis/{g['preferredVersion']['groupVersion']}" for g in groups["groups"])]
    assert "/apis/example.com/v1" in paths
    _, index = await client.call("GET", "/openapi/v3")
    for path in paths:
        _, resources = await client.call("GET", path)
        for resource in resources["resources"]:
            if "list" in resource["verbs"]:
                status, _ = await client.call("GET", f"{path}/{resource['name']}")
                assert status == 200, resource["name"]
        if path.lstrip("/") in index["paths"]:
            status, document = await client.call("GET", index["paths"][path.lstrip("/")]["serverRelativeURL"])
            assert status == 200
            text = str(document)
            names = set(document["components"]["schemas"])
            missing = [part.partition("'")[0] for part in text.split("#/components/schemas/")[1:]]
            assert set(missing) <= names
