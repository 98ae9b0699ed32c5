"""The service on a Milvus collection: what it answers from a folder, it answers from there."""

from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient

from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.gallery.indexing import index
from sfsc.serving import create_app


def test_a_collection_is_searched_and_written(
    run: Path, shapes: str, picture: Path, client: TestClient, tmp_path: Path
) -> None:
    url = f"milvus://{tmp_path}/rows.db/shapes"
    with Gallery.open(url, create=True) as gallery:
        index(Family.load(run), shapes, gallery, 1.0, workers=0)
    form = {"width": "0.25", "where": "camera=c1"}
    files = {"image": (picture.name, picture.read_bytes())}
    with TestClient(create_app(run, url, hosts=["testserver"])) as served:
        answers = [one.post("/search/image", data=form, files=files).json() for one in (client, served)]
        assert [hit["id"] for hit in answers[1]["hits"]] == [hit["id"] for hit in answers[0]["hits"]] != []
        assert served.get("/gallery").json()["rows"] == 24
        added = served.post("/rows", data={"path": "s3://shop/1.jpg", "id": "1"}, files=files)
        assert added.status_code == 200, added.text
        found = served.post("/search/id", json={"id": "1", "top": 2}).json()["hits"]
        assert "1" in [hit["id"] for hit in found]
        assert served.delete("/rows", params={"where": "camera=c1"}).json()["deleted"] > 0
        after = served.post("/search/image", data=form, files=files).json()
        assert after["hits"] == []
