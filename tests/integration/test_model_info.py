# SPDX-License-Identifier: Apache-2.0
"""What we tell upstream's registry of Qwen3 and its drafts is what they say of themselves."""

import dataclasses
import json

import pytest

from vllm.helion import model_info
from vllm.model_executor.models import registry


@pytest.fixture(params=model_info.FACTS)
def architecture(request):
    return request.param


@pytest.fixture
def model(architecture, monkeypatch, tmp_path):
    monkeypatch.setattr("vllm.envs.VLLM_CACHE_ROOT", str(tmp_path), raising=False)
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    monkeypatch.setattr(registry, "_run_in_subprocess", lambda ask: pytest.fail("asked the model"))
    return registry.ModelRegistry.models[architecture]


def test_the_facts_are_the_models_own(model, architecture):
    truth = registry._ModelInfo.from_model_cls(model.load_model_cls())
    assert dataclasses.asdict(truth) == model_info.FACTS[architecture]


def test_upstream_asks_nobody_where_we_answered(model, architecture, tmp_path):
    model_info.seed_cache()
    assert dataclasses.asdict(model.inspect_model_cls()) == model_info.FACTS[architecture]
    assert len(list(tmp_path.rglob("*.json"))) == len(model_info.FACTS)


def test_the_answers_of_another_version_are_replaced(model, architecture, tmp_path):
    model_info.seed_cache()
    path = tmp_path / "modelinfos" / model._get_cache_filename()
    stale = json.loads(path.read_text())
    stale["hash"] = "another"
    path.write_text(json.dumps(stale))
    model_info.seed_cache()
    assert model.inspect_model_cls() == registry._ModelInfo(**model_info.FACTS[architecture])


def test_a_cache_that_cannot_be_written_stops_nothing(model, tmp_path, monkeypatch):
    (tmp_path / "modelinfos").write_text("a file where the folder should be")
    model_info.seed_cache()
