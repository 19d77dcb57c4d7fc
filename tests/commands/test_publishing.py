"""The verb `publish`: the files and the card that reach the Hub, which is a small server here, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import threading
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from sentence_transformers import SentenceTransformer

from hr_search.base.errors import InputError
from hr_search.commands import parser
from hr_search.encoder import load_encoder
from hr_search.export.publication import checked_licence
from hr_search.release import command, model_card, save_model
from hr_search.runs.folders import Run
from hr_search.settings import Settings

PLACE = "/home/somebody/secret"
METRICS = ("mrr", "pass@1", "pass@5", "recall@10", "ndcg@10", "map")
OLD = "1" * 40  # the commit of a repository that was there before


class Hub(http.server.ThreadingHTTPServer):
    """As much of the Hub as an upload meets: one repository, its files and commits.

    Attributes:
        files: of the repository by path; None while there is no repository.
        private: whether it is.
        calls: paths of all requests in their order.
        broken: the part of a path whose requests get no answer.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] | None = None
        self.stored: dict[str, bytes] = {}
        self.private, self.calls, self.broken, self.header = False, [], "", {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *words: object) -> None:
        """Says nothing."""

    def _answer(self, value: object, status: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        hub, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.calls.append(self.path.split("?")[0])
        if hub.broken and hub.broken in self.path:
            self.connection.close()
            raise ConnectionError
        return body

    def do_GET(self) -> None:
        hub = self.server
        with contextlib.suppress(ConnectionError):
            self._body()
            assert self.headers["Authorization"] == "Bearer hf_test"
            if hub.files is None:
                self._answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound")
            else:
                siblings = [{"rfilename": name} for name in hub.files]
                self._answer({"id": "me/jobs", "sha": OLD, "private": hub.private, "siblings": siblings})

    def do_PUT(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.server.stored[self.path.rsplit("/", 1)[1]] = self._body()
            self._answer({})

    def do_POST(self) -> None:
        hub = self.server
        with contextlib.suppress(ConnectionError):
            body = self._body()
            if self.path == "/api/repos/create":
                told = json.loads(body)
                assert (told["organization"], told["name"]) == ("me", "jobs")
                hub.files, hub.private = {".gitattributes": b""}, told.get("visibility") == "private"
                self._answer({"url": f"{hub.address}/me/jobs"})
            elif self.path == "/api/validate-yaml":
                self._answer({})
            elif "/preupload/" in self.path:
                modes = [
                    {"path": file["path"], "shouldIgnore": False, "uploadMode": _mode(file["path"])}
                    for file in json.loads(body)["files"]
                ]
                self._answer({"files": modes})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    each | {"actions": {"upload": {"href": f"{hub.address}/store/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ]
                self._answer({"transfer": "basic", "objects": objects})
            else:
                assert self.path == "/api/models/me/jobs/commit/main"
                self._commit([json.loads(line) for line in body.splitlines()])

    def _commit(self, lines: list[dict]) -> None:
        hub = self.server
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                hub.header = value
            elif line["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                hub.files[value["path"]] = hub.stored[value["oid"]]
            else:
                del hub.files[value["path"]]
        self._answer({"commitUrl": f"{hub.address}/me/jobs/commit/{'2' * 40}", "commitOid": "2" * 40})


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_test")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model(home, tmp_path, tiny_model) -> Path:
    """A saved model and the run that saved it."""
    folder = tmp_path / "model"
    settings = Settings(
        datapath=f"{PLACE}/my jobs.csv", modelname=str(tiny_model), projectname="jobs", outputpath=str(folder)
    )
    run = Run(home / "metrics" / "runs" / "jobs-1")
    run.folder.mkdir(parents=True)
    figures = {
        system: {side: {name: [mean, mean - 0.05, mean + 0.05] for name in METRICS} for side in ("q2d", "d2q")}
        for system, mean in {"bm25": 0.4, "tfidf": 0.5, "base": 0.6, "trained": 0.71234}.items()
    }
    summary = {
        "data": {"name": "my jobs.csv", "fingerprint": "0a1b", "train": 8, "test": 5},
        "metrics": figures,
        "verdict": "trained is better than base.",
        "steps": 2,
        "best_step": 1,
        "command": command(settings),
    }
    (run.folder / "config.json").write_text(json.dumps(settings.to_dict()))
    (run.folder / "summary.json").write_text(json.dumps(summary))
    save_model(load_encoder(str(tiny_model), precision="fp32"), str(folder), model_card(settings, summary))
    (folder / ".lock").write_text("")
    (folder / "memory").mkdir()
    (folder / "memory" / "query.npy").write_bytes(b"known pairs")
    (folder / "search.json").write_text('{"q2d": {"centre": true}}')
    return folder


def publish(model: Path, *words: str, repo: str = "me/jobs", licence: str = "mit") -> int:
    return parser.main(["publish", "--model", str(model), "--repo", repo, "--licence", licence, *words])


def test_the_files_and_a_card_with_figures_reach_the_hub_in_one_commit(hub, model, tmp_path, capsys):
    assert publish(model, "--private") == 0
    told = capsys.readouterr().out
    assert "with the figures of jobs-1" in told and "left out: search.json, memory" in told
    assert hub.private and hub.calls[-1] == "/api/models/me/jobs/commit/main"
    assert sum("/commit/" in call for call in hub.calls) == 1
    saved = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert set(hub.files) - {".gitattributes"} == saved - {".lock", "search.json", "memory/query.npy"}
    arrived = tmp_path / "arrived"
    for name, content in hub.files.items():
        (arrived / name).parent.mkdir(parents=True, exist_ok=True)
        (arrived / name).write_bytes(content)
    same, there = (SentenceTransformer(str(folder), device="cpu").encode(["welder"]) for folder in (model, arrived))
    assert np.array_equal(same, there)
    text = hub.files["README.md"].decode()
    assert PLACE not in text and str(tmp_path) not in text and "'--datapath=my jobs.csv'" in text
    assert "| bm25 | q2d | 0.400 [0.350, 0.450] |" in text and 'SentenceTransformer("me/jobs")' in text
    assert "Licence of the model: mit." in text and "`my jobs.csv`, a table that is not published here" in text
    card = ModelCard(text).data
    assert (card.license, card.model_name, card.base_model) == ("mit", "jobs", None)
    found = {(each.dataset_config, each.metric_type): each for each in card.eval_results}
    assert len(found) == len(card.eval_results) == 12
    mrr = found["d2q", "mrr"]
    assert (mrr.metric_value, mrr.dataset_name, mrr.dataset_split) == (0.7123, "my jobs.csv", "test")
    assert mrr.metric_args == {"interval_95": [0.6623, 0.7623], "base": 0.6, "bm25": 0.4, "tfidf": 0.5}


def test_dry_writes_the_same_files_without_a_network(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert publish(model, "--dry", str(tmp_path / "out"), "--withmemory") == 0
    out = tmp_path / "out"
    assert (out / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert (out / "memory" / "query.npy").read_bytes() == b"known pairs" and (out / "search.json").is_file()
    assert "left out" not in capsys.readouterr().out
    assert "are not published" not in (out / "README.md").read_text()
    assert publish(model, "--dry", str(out)) == 2 and "give --dry a new or an empty one" in capsys.readouterr().err


def test_a_repository_with_files_is_replaced_only_on_request(hub, model, capsys):
    hub.files = {".gitattributes": b"", "old.bin": b"old", "config.json": b"old"}
    assert publish(model) == 2
    assert "me/jobs holds 2 files already (config.json is the first)" in capsys.readouterr().err
    assert hub.files["config.json"] == b"old" and not any("/preupload/" in call for call in hub.calls)
    assert publish(model, "--overwrite", "--private") == 2
    assert "is public already" in capsys.readouterr().err
    assert publish(model, "--overwrite") == 0
    assert hub.files["config.json"] == (model / "config.json").read_bytes()
    assert "old.bin" not in hub.files and ".gitattributes" in hub.files
    assert hub.header["parentCommit"] == OLD  # a commit in between is not overwritten


@pytest.mark.parametrize("broken", ["/store/", "/commit/"])
def test_a_network_that_fails_leaves_nothing_half_published(hub, model, capsys, monkeypatch, broken):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
    hub.broken = broken
    assert publish(model) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hr_search: me/jobs was not published (Server disconnected") and "new and empty" in error
    assert set(hub.files) == {".gitattributes"}
    hub.broken = ""
    assert publish(model) == 0 and "model.safetensors" in hub.files


def test_a_licence_is_known_where_all_parts_are_bundled():
    assert checked_licence("", Settings(datapath="esco")) == "mit"
    for other in ({"modelname": "other"}, {"datapath": "mine.csv"}, {"teacher": "teacher"}):
        settings = Settings(**{"datapath": "esco"} | other)
        with pytest.raises(InputError, match="give --licence"):
            checked_licence("", settings)
        assert checked_licence("cc-by-4.0", settings) == "cc-by-4.0"


def test_what_cannot_be_published_is_refused(hub, model, tmp_path, tiny_model, monkeypatch, capsys):
    def refused(*words: str, **options: str) -> str:
        assert publish(*words, **options) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "is not the name of a repository" in refused(model, repo="jobs")
    assert "refused by the Hub" in refused(model, repo="me/jobs..2")
    assert "holds no saved model" in refused(tmp_path / "nothing") and "holds no saved model" in refused(tmp_path)
    assert "depends on its base model, its teacher" in refused(model, licence="")
    assert "is not an identifier" in refused(model, licence="My licence")
    policy = model / "search.json"
    kept = policy.read_text()
    policy.write_text('{"q2d": {"rerank": "./second"}}')
    assert "a folder of this machine" in refused(model, "--withmemory")
    policy.write_text(kept)
    (model / "train.csv").write_text("query,positive")
    assert "train.csv in" in refused(model)
    (model / "train.csv").unlink()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "needs a token" in refused(model)
    assert hub.files is None and not hub.calls
    (tmp_path / "home" / "metrics" / "runs" / "jobs-1" / "summary.json").write_text("{}")
    assert "no run in" in refused(model)
