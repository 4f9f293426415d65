# SPDX-License-Identifier: BSD-2-Clause
"""The Helm chart: rendered by helm, checked by Kubernetes' and KEDA's schemas, and taken by the gateway."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway import __version__
from gateway.api.pipecat_cloud.agent_models import AgentView
from gateway.api.pipecat_cloud.agent_scaling import AgentScaling
from gateway.config import load
from gateway.config.settings import Settings
from gateway.simulator.waiting import WAIT_S
from tests.interop.shipping import ROOT, tool

CHART = ROOT / "deploy" / "helm" / "patchbay"
RELEASE = "voice"
VERSIONS = ("1.27", "1.37")
"""The oldest Kubernetes that the chart takes, and the newest that there are schemas for."""

REDIS = {"store": {"kind": "redis", "url": "redis://redis:6379/0"}}
CONFIG = """\
[[organizations]]
name = "acme"
private_keys = ["env:ACME_KEY"]

[[agents]]
name = "support"
organization = "acme"
instances = ["http://support.bots.svc:8080"]
"""
KEDA_AGENT = {
    "agent": "support",
    "deployment": "support-bot",
    "minReplicas": 1,
    "maxReplicas": 20,
    "tokenSecret": {"name": "patchbay-keda", "key": "private-key"},
}

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "config": {"config": CONFIG, "env": [{"name": "ACME_KEY", "value": "sk_0123456789abcdef0123"}]},
    "persistence": {"persistence": {"enabled": True, "storageClassName": "fast"}},
    "redis with three replicas": REDIS | {"replicaCount": 3},
    "redis with a password": {"store": {"kind": "redis"}, "existingSecret": "patchbay", "replicaCount": 2},
    "pods with IPv6": REDIS | {"server": {"nodeFamily": "IPv6", "workers": 2}},
    "tls": {
        "tls": {"existingSecret": "voice-tls"},
        "service": {"type": "LoadBalancer", "port": 443, "externalTrafficPolicy": "Local"},
    },
    "ingress": REDIS
    | {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "tlsSecret": "voice-tls",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "14400"},
        },
        "server": {"publicUrl": "https://voice.example.com", "trustedProxies": ["10.0.0.0/8"]},
    },
    "scaled by CPU": REDIS | {"autoscaling": {"enabled": True}},
    "scaled by calls": REDIS | {"keda": {"gateways": {"enabled": True}, "agents": [KEDA_AGENT]}},
    "agents found by Kubernetes": REDIS | {"endpointSlices": {"namespaces": ["default", "bots"]}},
    "nothing on top": {
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False},
        "existingConfigSecret": "patchbay-toml",
        "topologySpreadConstraints": [],
    },
    "everything of a pod": REDIS
    | {
        "image": {"repository": "voice/patchbay", "tag": "edge", "pullSecrets": [{"name": "pull"}]},
        "nodeSelector": {"pool": "voice"},
        "tolerations": [{"key": "voice", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "calls",
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "networkPolicy": {"publicFrom": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
    },
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "several gateways with a file each": ({"replicaCount": 2}, "need a store that they share"),
    "a growing number with a file each": ({"autoscaling": {"enabled": True}}, "need a store that they share"),
    "Redis without an address": ({"store": {"kind": "redis"}}, "needs store.url, or existingSecret"),
    "a file beside Redis": (
        REDIS | {"persistence": {"enabled": True}},
        "persistence is for store.kind=sqlite",
    ),
    "two that scale": (
        REDIS | {"autoscaling": {"enabled": True}, "keda": {"gateways": {"enabled": True}}},
        "choose one",
    ),
    "TLS behind an ingress": (
        {"tls": {"existingSecret": "t"}, "ingress": {"enabled": True}},
        "without the ingress",
    ),
    "one port for all": ({"server": {"nodePort": 7860}}, "must differ"),
    "a misspelt value": ({"replicas": 2}, "replicas"),
    "no time to drain": ({"drain": {"timeout": -1}}, "timeout"),
}


def helm(*arguments: str | Path, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("helm"), *arguments, *(["--values=-"] if values is not None else [])],
        input=json.dumps(values),  # JSON is YAML
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def render(case: str) -> str:
    finished = helm("template", RELEASE, CHART, "--namespace=calls", values=CASES[case])
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def resources(case: str) -> list[dict[str, Any]]:
    """Return what a case is rendered to."""
    return read_yaml(render(case))


def read_yaml(text: str) -> list[dict[str, Any]]:
    """Return the resources in a text."""
    program = "import json, sys, yaml; json.dump([r for r in yaml.safe_load_all(sys.stdin) if r], sys.stdout)"
    read = subprocess.run(
        [tool("python"), "-c", program],
        input=text,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    found: list[dict[str, Any]] = json.loads(read.stdout)
    return found


def one(found: list[dict[str, Any]], kind: str, name: str = "voice-patchbay") -> dict[str, Any]:
    (resource,) = [each for each in found if each["kind"] == kind and each["metadata"]["name"] == name]
    return resource


def pod_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = one(found, "Deployment")["spec"]["template"]["spec"]
    return pod


def address_in(case: str) -> str:
    """Return the address that a pod of the case has."""
    return "fd00::7" if CASES[case].get("server", {}).get("nodeFamily") == "IPv6" else "10.1.2.3"


def settings_of(found: list[dict[str, Any]], tmp_path: Path, address: str = "10.1.2.3") -> Settings:
    """Read the configuration as the gateway in the pod would."""
    variables = pod_of(found)["containers"][0]["env"]
    environment = {
        each["name"]: each["value"].replace("$(POD_IP)", address) for each in variables if "value" in each
    }
    file = tmp_path / "patchbay.toml"
    file.write_text(one(found, "Secret", "voice-patchbay-config")["stringData"][file.name])
    return load(file, environment)


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_knows_everything_that_is_rendered(case: str, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(render(case))
    for version in VERSIONS:
        finished = subprocess.run(
            [tool("kubernetes-validate"), "--strict", f"--kubernetes-version={version}", manifest],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        said = (finished.stdout + finished.stderr).splitlines()
        assert finished.returncode == 0, said
        unread = [line for line in said if not line.startswith("INFO") and "keda.sh" not in line]
        assert unread == []


def test_keda_knows_what_is_rendered_for_it() -> None:
    ours = [each for each in resources("scaled by calls") if each["apiVersion"].startswith("keda.sh/")]
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    blocks = (each.partition("```")[0] for each in page.split("```yaml\n")[1:])
    ours += read_yaml(next(each for each in blocks if "keda.sh" in each))
    assert [each["kind"] for each in ours].count("ScaledObject") == 3
    finished = subprocess.run(
        [tool("python"), "-W", "ignore", Path(__file__).parent / "keda_schema.py"],
        input=json.dumps(ours),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (0, ""), finished.stderr


def test_keda_asks_for_what_the_gateway_answers() -> None:
    """At /status for gateways, and at the agent's own resource for its instances."""
    found = resources("scaled by calls")
    by_calls, by_need = (
        one(found, "ScaledObject", name)["spec"]["triggers"][0]["metadata"]
        for name in ("voice-patchbay", "voice-patchbay-support")
    )
    assert (by_calls["url"], by_calls["valueLocation"]) == (
        "http://voice-patchbay.calls.svc:80/status",
        "sessions.active",
    )
    assert by_need["url"] == "http://voice-patchbay.calls.svc:80/v1/agents/support"
    member, number = by_need["valueLocation"].split(".")
    assert AgentView.model_fields[member].annotation is AgentScaling
    assert AgentScaling.model_fields[number].annotation is int


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_wrong(case: str) -> None:
    finished = helm("lint", "--strict", "--quiet", CHART, values=CASES[case])
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_lose_calls_is_refused(case: str) -> None:
    values, words = REFUSED[case]
    finished = helm("template", RELEASE, CHART, values=values)
    assert finished.returncode == 1
    assert words in finished.stderr


@pytest.mark.parametrize("case", [case for case in CASES if case != "nothing on top"])
def test_the_gateway_takes_its_settings(case: str, tmp_path: Path) -> None:
    found = resources(case)
    settings = settings_of(found, tmp_path, address_in(case))
    container = pod_of(found)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings.server.port == ports["public"]
    if "store" in CASES[case]:
        host = address_in(case) if "." in address_in(case) else f"[{address_in(case)}]"
        assert str(settings.server.node_url) == f"http://{host}:{ports['internal']}"
    else:
        assert settings.server.node_url is None
        assert settings.store.url == "sqlite:////var/lib/patchbay/patchbay.db"


@pytest.mark.parametrize("case", ["default", "redis with three replicas", "tls"])
def test_a_pod_has_the_time_that_its_calls_may_take(case: str, tmp_path: Path) -> None:
    """The kubelet counts the hook, too (pod lifecycle, "Termination of Pods")."""
    found = resources(case)
    pod = pod_of(found)
    hook = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    drain = settings_of(found, tmp_path).server.drain_timeout
    assert hook == ["sleep", "10"]
    assert pod["terminationGracePeriodSeconds"] == 10 + drain + 60


@pytest.mark.parametrize("case", CASES)
def test_a_pod_may_do_no_more_than_it_needs(case: str) -> None:
    pod = pod_of(resources(case))
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/var/lib/patchbay", "/tmp"}
    assert pod["automountServiceAccountToken"] is (case == "agents found by Kubernetes")
    assert pod["enableServiceLinks"] is False


def test_a_draining_pod_has_a_name_and_only_gateways_reach_more_than_its_public_port() -> None:
    found = resources("redis with three replicas")
    internal = one(found, "Service", "voice-patchbay-internal")["spec"]
    assert internal["clusterIP"] == "None"
    assert internal["publishNotReadyAddresses"] is True
    public = one(found, "Service")["spec"]
    assert "publishNotReadyAddresses" not in public
    own = one(found, "Deployment")["spec"]["selector"]["matchLabels"]
    assert internal["selector"] == public["selector"] == own
    everybody, gateways = one(found, "NetworkPolicy")["spec"]["ingress"]
    assert everybody == {"ports": [{"protocol": "TCP", "port": "public"}]}
    assert gateways == {"from": [{"podSelector": {"matchLabels": own}}]}


def test_roles_are_in_the_namespaces_of_the_agents() -> None:
    found = resources("agents found by Kubernetes")
    roles = [each for each in found if each["kind"] == "Role"]
    assert [role["metadata"]["namespace"] for role in roles] == ["default", "bots"]
    assert roles[0]["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["get", "list", "watch"],
        }
    ]
    (subject,) = next(each for each in found if each["kind"] == "RoleBinding")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "voice-patchbay", "namespace": "calls"}


def test_another_configuration_is_another_pod() -> None:
    def checksum(case: str) -> str:
        template = one(resources(case), "Deployment")["spec"]["template"]
        text: str = template["metadata"]["annotations"]["checksum/config"]
        return text

    assert checksum("default") != checksum("config")
    assert checksum("default") == checksum("tls")


def test_what_is_scaled_has_no_number_of_its_own() -> None:
    """An upgrade would set it back."""
    assert one(resources("default"), "Deployment")["spec"]["replicas"] == 1
    for case in ("scaled by CPU", "scaled by calls"):
        assert "replicas" not in one(resources(case), "Deployment")["spec"]


def test_the_chart_is_of_the_version_of_the_gateway() -> None:
    text = (CHART / "Chart.yaml").read_text()
    assert f'appVersion: "{__version__}"' in text
    assert f"version: {__version__}\n" in text
    assert tomllib.loads(CONFIG)["agents"]
