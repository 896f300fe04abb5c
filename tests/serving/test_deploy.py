"""The manifests: valid against the published schemas, and true to the program they run. No cluster is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import arr_coc
from arr_coc.cli import app
from arr_coc.engines.vllm.versions import TESTED
from eval.serving.capacity import LAST

validation = pytest.importorskip("kubernetes_validate")

DEPLOY = Path(__file__).parents[2] / "configs" / "deploy"
ROUTES = ("serving/routes.py", "engines/vllm/endpoint.py")
VERSIONS = ("1.30", "1.33", "1.36")


def read(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def base() -> list[dict[str, Any]]:
    names = yaml.safe_load((DEPLOY / "base" / "kustomization.yaml").read_text())["resources"]
    return [document for name in names for document in read((DEPLOY / "base" / name).read_text())]


def rendered() -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here, which renders the base")
    command = ["kubectl", "kustomize", str(DEPLOY / "base")]
    return read(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


ALL = {"base": base, "rendered": rendered}


@pytest.fixture(params=list(ALL))
def manifests(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in ALL[request.param]()}


def pods(manifests: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    cron = manifests["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]
    return [manifests["Deployment"]["spec"]["template"], cron]


def test_every_manifest_fits_the_published_schemas(manifests: dict[str, dict[str, Any]]) -> None:
    assert len(manifests) == 10
    for document in manifests.values():
        for version in VERSIONS:
            validation.validate(document, version, strict=True)


def test_the_check_can_fail() -> None:
    wrong = next(document for document in base() if document["kind"] == "Deployment")
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
    with pytest.raises(validation.ValidationError, match="readinessprobe"):
        validation.validate(wrong, VERSIONS[0], strict=True)


def test_every_container_is_locked_down_and_bounded(manifests: dict[str, dict[str, Any]]) -> None:
    for pod in pods(manifests):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            rules = container["securityContext"]
            assert rules["readOnlyRootFilesystem"] and rules["allowPrivilegeEscalation"] is False
            assert rules["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]) == {"requests", "limits"}
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in spec["volumes"]} == {"data", "tmp"}
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    uid = pods(manifests)[0]["spec"]["securityContext"]["runAsUser"]
    assert f"USER {uid}:" in dockerfile


def test_the_image_is_built_from_what_exists_and_nothing_else() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copies = [line.split() for line in lines if line.startswith("COPY") and "--from" not in line]
    copied = [word for words in copies for word in words[1:-1]]
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore and {line[1:] for line in ignore if line.startswith("!")} == set(copied)
    assert len(copied) == 5 and all((DEPLOY.parents[1] / name).exists() for name in copied)
    commands = [line.split(maxsplit=1)[0] for line in lines if line and line[0].isupper()]
    assert commands.index("USER") < commands.index("ENTRYPOINT")  # not as root


def test_the_arguments_are_those_of_the_command_line(manifests: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    settings = manifests["ConfigMap"]["data"]
    for pod in pods(manifests):
        (container,) = pod["spec"]["containers"]
        words = [re.sub(r"\$\((\w+)\)", lambda match: settings[match[1]], word) for word in container["args"]]
        command: Any = typer.main.get_command(app)
        context = command.commands[words[0]].make_context(words[0], words[1:])
        if words[0] == "serve":
            assert context.params["host"] == "0.0.0.0" and str(context.params["policy"]) == "/data/store"
            assert context.params["engine"] == "vllm" and context.params["engine_args"] == settings["ENGINE_ARGS"]
        assert str(context.params["log"]) == "/data/log"


def test_names_point_at_each_other(manifests: dict[str, dict[str, Any]]) -> None:
    deployment = manifests["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] in ports
    assert manifests["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] == ports["http"] == 8000
    volumes = [volume for pod in pods(manifests) for volume in pod["spec"]["volumes"]]
    claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}
    assert claims == {manifests["PersistentVolumeClaim"]["metadata"]["name"]}
    for pod in pods(manifests):
        for source in pod["spec"]["containers"][0]["envFrom"]:
            assert source["configMapRef"]["name"] == manifests["ConfigMap"]["metadata"]["name"]


def test_probes_ask_for_routes_that_exist_and_stopping_takes_long_enough(manifests: dict[str, dict[str, Any]]) -> None:
    source = "".join((Path(arr_coc.__file__).parent / name).read_text() for name in ROUTES)
    routes = set(re.findall(r'@(?:app|router)\.get\("([^"]+)"', source)) | {"/health", "/metrics"}  # vLLM's own
    pod = manifests["Deployment"]["spec"]["template"]
    (server,) = pod["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"]["path"] in routes
    assert pod["metadata"]["annotations"]["prometheus.io/path"] in routes
    assert pod["spec"]["terminationGracePeriodSeconds"] > 30 + server["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_the_nightly_job_never_runs_twice_at_once_and_ends(manifests: dict[str, dict[str, Any]]) -> None:
    cron = manifests["CronJob"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid" and cron["startingDeadlineSeconds"] > 0
    job = cron["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] > 0 and job["template"]["spec"]["restartPolicy"] == "Never"


def test_capacity_is_arithmetic_on_what_was_measured() -> None:
    from eval.serving.capacity import arithmetic

    facts = {"server, ms per question": 100.0, "bytes per decision": 4000.0, "bytes per reward": 200.0}
    facts |= {"read, ms per round": 0.1, "learn, ms per round": 0.02, "judge, ms per round": 0.5}
    million = arithmetic(1_000_000, facts)
    assert million["busy cores"] == pytest.approx(27.8, abs=0.1) and 40 in million.values()
    assert million["log, MB per day"] == pytest.approx(24e6 * 4200 / 1e6)
    assert million["retraining, s"] == pytest.approx(24e6 * 1e-4 + 1e5 * 5.2e-4)
    settings = {d["kind"]: d for d in base()}["ConfigMap"]["data"]
    assert int(settings["LAST"]) == LAST
    assert arithmetic(1000, facts)["retraining, s"] == pytest.approx(2.4 + 12_000 * 5.2e-4)


def test_a_pod_has_a_gpu_bounded_threads_and_the_version_and_can_be_drained(
    manifests: dict[str, dict[str, Any]],
) -> None:
    (server,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1" == server["resources"]["requests"]["nvidia.com/gpu"]
    (metric,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "vllm_num_requests_waiting"
    least = manifests["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
    assert manifests["PodDisruptionBudget"]["spec"] | {"selector": None} == {"maxUnavailable": 1, "selector": None}
    assert least >= 1
    for pod in pods(manifests):
        names = {variable["name"] for variable in pod["spec"]["containers"][0].get("env", [])}
        assert "OMP_NUM_THREADS" in names  # torch would take every core of the node


def test_the_image_holds_the_versions_that_are_tested() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    (minor,) = re.findall(r"^FROM vllm/vllm-openai:v(\d+\.\d+)\.\d+$", lines, re.MULTILINE)
    assert minor in TESTED
    project = tomllib.loads((DEPLOY.parents[1] / "pyproject.toml").read_text())["project"]
    tag = yaml.safe_load((DEPLOY / "base" / "kustomization.yaml").read_text())["images"][0]["newTag"]
    assert tag == project["version"] and f"arr-coc:{tag}" in lines
    (pinned,) = [line for line in project["optional-dependencies"]["vllm"] if line.startswith("vllm")]
    assert [pinned.split(">=")[1].split(",")[0]] == [TESTED[0]], "the extra, the image and versions.py name one range"
