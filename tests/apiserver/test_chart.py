"""The chart through real Helm, and what it renders before a real API server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import chart_package
import chart_schema
import plain_manifests
from wesher_common.names import TUNNELS_READY
from wesher_common.version import VERSION
from wesher_operator.agent_pods import parse_agent_pods
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.helm import CHART, SOME_IMAGE, VERSIONS, HelmFailed, HelmVersion, run_helm
from wesher_testing.cluster.operator_process import NAMESPACE
from wesher_testing.run.toolbox import REPOSITORY

HERE = Path(__file__).parent / "chart"
EVERYTHING = HERE / "everything.values.yaml"
RULE = REPOSITORY / "deploy/examples/node-readiness-rule.yaml"
"""An object of a controller that is not ours."""
EXAMPLES = [each for each in sorted((REPOSITORY / "deploy/examples").glob("*.yaml")) if each != RULE]
GOLDEN = HERE / "everything.rendered.yaml"
DIGEST = f"sha256:{'d' * 64}"
RUNS_PODS = {"Deployment", "Job", "Pod"}


def render(home: Path, *more: str | Path, version: HelmVersion = 4) -> str:
    """Render the chart as `helm install wesher charts/wesher -n wesher-system` would."""
    release = ("template", "wesher", CHART, "--namespace", NAMESPACE, "--kube-version=1.34")
    image = () if "--values" in more else (SOME_IMAGE,)
    return run_helm(version, *release, *image, *more, home=home)


def documents(text: str) -> list[dict[str, Any]]:
    """Return the objects of a rendering in an order of their own: the two Helms sort hooks differently."""
    found = [document for document in yaml.safe_load_all(text) if document]
    return sorted(found, key=lambda each: (each["kind"], each["metadata"]["name"]))


@pytest.mark.parametrize("values", [(), ("--values", EVERYTHING)])
def test_helm_3_and_4_render_the_same(tmp_path: Path, values: tuple[str, ...]) -> None:
    three, four = (documents(render(tmp_path, *values, version=version)) for version in VERSIONS)
    assert three == four
    assert len(three) > 10


@pytest.mark.parametrize("version", VERSIONS)
def test_lint_finds_nothing_wrong(tmp_path: Path, version: HelmVersion) -> None:
    for values in ((), ("--values", EVERYTHING)):
        said = run_helm(version, "lint", CHART, "--strict", "--kube-version=1.34", *values, home=tmp_path)
        assert "[WARNING]" not in said


@pytest.mark.parametrize("version", VERSIONS)
def test_the_released_package_lints_renders_and_says_where_it_comes_from(
    tmp_path: Path, version: HelmVersion
) -> None:
    package = tmp_path / chart_package.name(VERSION)
    home, sources = "https://wesher.example", ["https://git.wesher.example/wesher"]
    chart_package.make(package, home=home, sources=sources, epoch=1767225600)

    def helm(*words: str) -> str:
        return run_helm(version, *words, home=tmp_path)

    assert "[WARNING]" not in helm("lint", str(package), "--strict", "--kube-version=1.34")
    options = (f"--namespace={NAMESPACE}", "--kube-version=1.34", SOME_IMAGE)
    assert documents(helm("template", "wesher", str(package), *options)) == documents(
        render(tmp_path, version=version)
    )
    about = yaml.safe_load(helm("show", "chart", str(package)))
    assert (about["home"], about["sources"]) == (home, sources)
    assert about["maintainers"] == [{"name": "The wesher authors"}]
    assert helm("show", "readme", str(package)).strip().startswith("# wesher")


def test_the_plain_manifests_are_what_the_chart_renders() -> None:
    assert plain_manifests.RENDERED.read_text() == plain_manifests.text()


def test_every_value_has_its_effect(tmp_path: Path) -> None:
    """Write the rendering over the golden file when a change of it is meant."""
    rendered = documents(render(tmp_path, "--values", EVERYTHING))
    assert rendered == documents(GOLDEN.read_text())


def test_the_everything_file_sets_every_value() -> None:
    values, tried = (yaml.safe_load(path.read_text()) for path in (CHART / "values.yaml", EVERYTHING))
    # A digest beats a tag; without the others there is no rest.
    untried = {"image.tag", "rbac.create", "rbac.nodeRestriction", "rbac.nodeReadiness", "mesh.create"}
    assert set(leaves(values)) - set(leaves(tried)) == untried


def leaves(values: dict[str, Any], path: str = "") -> list[str]:
    """Return the paths down to a section's own fields, which may themselves be Kubernetes' objects."""
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict) and not path and key != "commonLabels":
            found += leaves(value, f"{key}.")
        else:
            found.append(path + key)
    return found


@pytest.mark.parametrize("values", [(), ("--values", EVERYTHING)])
def test_the_api_server_takes_all_that_is_rendered(
    installed: ApiServer, tmp_path: Path, values: tuple[str, ...]
) -> None:
    # The test's pod needs its ServiceAccount there, which a dry run does not make.
    rendered = render(tmp_path, *values, "--skip-tests")
    said = installed.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"), stdin=rendered
    )
    assert said.count("serverside-applied") == len(documents(rendered))


def test_the_operator_can_read_what_the_chart_says_of_agents(tmp_path: Path) -> None:
    (operator,) = [
        o for o in documents(render(tmp_path, "--values", EVERYTHING)) if o["kind"] == "Deployment"
    ]
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    pods = parse_agent_pods(environment["WESHER_AGENT_PODS"], where="chart")
    assert not pods.privileged
    assert pods.pod_annotations == {"agent": "it's"}
    assert pods.pod_labels == {"team": "net", "tier": "agent"}
    assert pods.image_pull_secrets == [{"name": "mirror-login"}, {"name": "registry-login"}]


@pytest.mark.parametrize(
    ("values", "agents", "operator"),
    [
        ("image.repository=reg.example/wesher", "reg.example/wesher:{}", "reg.example/wesher-operator:{}"),
        (
            "image.repository=,image.registry=reg.example,image.tag=v7",
            "reg.example/wesher:v7",
            "reg.example/wesher-operator:v7",
        ),
        ("image.repository=reg.example/x-operator", "reg.example/x:{}", "reg.example/x-operator:{}"),
        ("image.repository=my-operator,operator.image.repository=other", "my-operator:{}", "other:{}"),
        ("operator.image.repository=a/b,operator.image.tag=v8", "wesher:{}", "a/b:v8"),
        # A digest is of one image.
        (f"image.digest={DIGEST}", f"wesher@{DIGEST}", "wesher-operator:{}"),
        (f"operator.image.digest={DIGEST}", "wesher:{}", f"wesher-operator@{DIGEST}"),
    ],
)
def test_agents_and_all_that_the_operator_does_have_an_image_each(
    tmp_path: Path, values: str, agents: str, operator: str
) -> None:
    rendered = documents(render(tmp_path, "--set", values))
    pods = [each["spec"].get("template", each)["spec"] for each in rendered if each["kind"] in RUNS_PODS]
    containers = [container for pod in pods for container in pod["containers"]]
    assert {container["image"] for container in containers} == {operator.format(VERSION)}
    assert len(containers) == len(RUNS_PODS)
    environment = [entry for container in containers for entry in container.get("env", [])]
    (image,) = [entry["value"] for entry in environment if entry["name"] == "WESHER_AGENT_IMAGE"]
    assert image == agents.format(VERSION)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("more", [(), ("--set", "operator.image.repository=reg.example/op")])
def test_without_a_repository_nothing_is_pulled_from_a_registry_that_is_not_the_users(
    tmp_path: Path, version: HelmVersion, more: tuple[str, ...]
) -> None:
    with pytest.raises(HelmFailed) as refused:
        render(tmp_path, "--set", "image.repository=", *more, version=version)
    said = "set image.repository to where you pushed wesher's image, such as registry.example.com/wesher: "
    assert f"{said}no public registry has it" in str(refused.value)


def test_without_a_mesh_there_is_none_and_no_test_of_it(tmp_path: Path) -> None:
    kinds = {each["kind"] for each in documents(render(tmp_path, "--set", "mesh.create=false"))}
    assert "WesherMesh" not in kinds
    assert "Pod" not in kinds


def test_the_operator_prefers_control_plane_nodes_and_runs_elsewhere_too(tmp_path: Path) -> None:
    """SECURITY.md says what control of its node means."""
    deployment = next(each for each in documents(render(tmp_path)) if each["kind"] == "Deployment")
    pod, label = deployment["spec"]["template"]["spec"], "node-role.kubernetes.io/control-plane"
    assert pod["affinity"].keys() == {"nodeAffinity"}
    ((kind, (term,)),) = pod["affinity"]["nodeAffinity"].items()
    assert kind == "preferredDuringSchedulingIgnoredDuringExecution"
    assert term["preference"]["matchExpressions"] == [{"key": label, "operator": "Exists"}]
    tolerated = {"key": label, "operator": "Exists", "effect": "NoSchedule"}
    assert tolerated in pod["tolerations"]


def test_without_rbac_there_are_no_roles_but_the_accounts_that_others_bind(tmp_path: Path) -> None:
    kinds = {each["kind"] for each in documents(render(tmp_path, "--set", "rbac.create=false"))}
    assert not {kind for kind in kinds if "Role" in kind}
    assert "ServiceAccount" in kinds


def test_without_node_restriction_no_policy_ties_agents_to_their_nodes(tmp_path: Path) -> None:
    def policies(*values: str) -> set[str]:
        return {each["kind"] for each in documents(render(tmp_path, *values)) if "Policy" in each["kind"]}

    assert policies() == {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert policies("--set", "rbac.nodeRestriction=false") == set()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("agent.privilged=false", "privilged"),
        ("agent.resources.limit.memory=1Mi", "limit"),
        ("agent.updateStrategy.rollingUpdate.maxSurge=1", "maxSurge"),
        ("operator.tolerations[0].kye=role", "kye"),
        ("mesh.tolerations[0].kye=role", "kye"),
        ("mesh.wireguard.prot=1", "prot"),
        ("mesh.wireguard.port=0", "port"),
        ("mesh.etcHosts=Never", "etcHosts"),
        ("image.pullPolicy=Maybe", "pullPolicy"),
        ("image.digest=latest", "digest"),
        ("operator.image.digest=latest", "digest"),
        ("colour=red", "colour"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    tmp_path: Path, version: HelmVersion, wrong: str, named: str
) -> None:
    with pytest.raises(HelmFailed, match=named):
        render(tmp_path, "--set", wrong, version=version)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_value_that_other_charts_have_is_refused_with_the_one_to_use(
    tmp_path: Path, version: HelmVersion
) -> None:
    given = [word for path in chart_schema.USE_INSTEAD for word in ("--set", f"{path}=x")]
    with pytest.raises(HelmFailed) as refused:
        render(tmp_path, *given, version=version)
    for path, use in chart_schema.USE_INSTEAD.items():
        assert f"at '/{path.replace('.', '/')}': value must be 'left out: use {use}'" in str(refused.value)


def test_each_value_that_is_named_to_be_used_is_one_of_the_charts() -> None:
    schema = json.loads(chart_schema.text())
    named = {
        word
        for use in chart_schema.USE_INSTEAD.values()
        for word in re.findall(r"(?<![\w-])(?:[a-z]+\.)?[a-z][A-Za-z]+\b", use)
        if word.partition(".")[0] in schema["properties"]
    }
    assert len(named) > 20
    for word in named:
        section: dict[str, Any] = schema
        for name in word.split("."):
            section = section["properties"][name]
        assert "const" not in section, f"{word} is itself refused"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_umbrella_charts_global_values_and_condition_hold(tmp_path: Path, version: HelmVersion) -> None:
    umbrella = tmp_path / "umbrella"
    shutil.copytree(CHART, umbrella / "charts/wesher")
    dependency = {"name": "wesher", "version": "0.1.0", "condition": "wesher.enabled"}
    about = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": [dependency]}
    (umbrella / "Chart.yaml").write_text(yaml.safe_dump(about))
    others = {"imageRegistry": "mirror.example", "imagePullSecrets": ["login"], "storageClass": "fast"}
    values = {"global": others, "wesher": {"enabled": True, "image": {"registry": "ghcr.io"}}}
    (umbrella / "values.yaml").write_text(yaml.safe_dump(values))

    def made(*more: str) -> list[dict[str, Any]]:
        command = ("template", "all", str(umbrella), "--kube-version=1.34")
        return documents(run_helm(version, *command, *more, home=tmp_path))

    pods = [pod_of(each) for each in made() if each["kind"] in {"Deployment", "Job", "Pod"}]
    assert len(pods) == 3
    for pod in pods:
        (container,) = pod["containers"]
        assert container["image"] == "mirror.example/wesher-operator:0.1.0"
        assert pod["imagePullSecrets"] == [{"name": "login"}]
    assert made("--set", "wesher.enabled=false") == []


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]
    return spec if workload["kind"] == "Pod" else spec["template"]["spec"]


def test_without_a_global_registry_the_images_own_is_used(tmp_path: Path) -> None:
    rendered = documents(render(tmp_path, "--set", "image.repository=,image.registry=ghcr.io"))
    (operator,) = [each for each in rendered if each["kind"] == "Deployment"]
    (container,) = pod_of(operator)["containers"]
    images = {entry["value"] for entry in container["env"] if entry["name"] == "WESHER_AGENT_IMAGE"}
    assert images == {"ghcr.io/wesher:0.1.0"}
    assert container["image"] == "ghcr.io/wesher-operator:0.1.0"


@pytest.mark.parametrize("version", VERSIONS)
def test_helm_takes_its_kubernetes_for_one_that_the_chart_supports(
    tmp_path: Path, version: HelmVersion
) -> None:
    """As a released Helm does: the chart is rendered without --kube-version then."""
    assert documents(run_helm(version, "template", "wesher", CHART, SOME_IMAGE, home=tmp_path))


def notes(api: ApiServer, home: Path, version: HelmVersion, *more: str) -> str:
    """Return what Helm would print after an installation beside the one that is there."""
    where = (
        f"--kubeconfig={api.kubeconfig}",
        f"--namespace={NAMESPACE}",
        "--set=nameOverride=noted",
        SOME_IMAGE,
    )
    said = run_helm(version, "install", "noted", CHART, "--dry-run=server", *where, *more, home=home)
    return said.partition("\nNOTES:\n")[2]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_helm_says_after_an_installation_fits_it(
    installed: ApiServer, tmp_path: Path, version: HelmVersion
) -> None:
    said = notes(installed, tmp_path, version, "--set=mesh.name=mine", "--set=mesh.gossip.port=7000")
    here = f"--namespace {NAMESPACE}"
    for line in (
        f"kubectl label namespace {NAMESPACE} --overwrite pod-security.kubernetes.io/enforce=privileged",
        "kubectl wait --for=condition=Ready --timeout=5m wmesh/mine",
        f"helm test noted {here}",
        f"kubectl describe replicasets,pods {here} --selector app.kubernetes.io/name=noted-operator",
        f"kubectl wait --for=delete pods {here} --selector wesher.dev/mesh=mine --timeout=2m",
    ):
        assert f"\n  {line}\n" in said
    assert "Open UDP 51820, and UDP and TCP 7000, between all members." in said
    assert "Back up the Secrets mine-key and mine-authority. A new mesh is Verified:" in said
    assert "\n  kubectl wesher invite MACHINE --mesh mine --output MACHINE.join\n" in said
    assert "by invite only" not in said
    assert "Verified" not in notes(installed, tmp_path, version, "--set=mesh.identity=Open")
    closed = notes(installed, tmp_path, version, "--set=mesh.overlayCIDR=10.189.0.0/20")
    assert (
        "by invite only: otherwise the prefix length of overlayCIDR must be a multiple of 8, not 20."
        in closed
    )
    waits = "kubectl wait --for=condition=TrafficCarried"
    assert "To carry packets between nodes and pods too, set mesh.traffic" in said
    assert waits not in said
    carrying = "--set=mesh.traffic.nodes=All,mesh.traffic.nodeCIDRs={10.1.0.0/16}"
    assert f"\n  {waits} --timeout=5m wmesh/default\n" in notes(installed, tmp_path, version, carrying)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_mesh_that_helm_suggests_where_it_made_none_can_be_pasted(
    installed: ApiServer, tmp_path: Path, version: HelmVersion
) -> None:
    said = notes(installed, tmp_path, version, "--set=mesh.create=false")
    begin = said.index("kubectl apply")
    pasted = said[begin : said.index("\n\n", begin)]
    shell = ["bash", "-c", f"kubectl() {{ cat; }}\n{pasted}\necho '# a command of its own'"]
    read = subprocess.run(shell, capture_output=True, text=True, check=True)
    assert read.stdout.endswith("# a command of its own\n")
    assert read.stderr == ""
    (mesh,) = documents(read.stdout)
    assert (mesh["kind"], mesh["spec"]) == ("WesherMesh", {"overlayCIDR": "10.189.0.0/16"})


def test_the_rule_for_the_node_readiness_controller_keeps_to_its_api_and_is_the_readmes() -> None:
    """Its rules as of v1alpha1: the taint's prefix, and no default status with bootstrap-only."""
    (rule,) = documents(RULE.read_text())
    assert (rule["apiVersion"], rule["kind"]) == ("readiness.node.x-k8s.io/v1alpha1", "NodeReadinessRule")
    spec = rule["spec"]
    assert spec.keys() == {"conditions", "enforcementMode", "taint", "nodeSelector"}
    assert spec["conditions"] == [{"type": TUNNELS_READY, "requiredStatus": "True"}]
    assert spec["enforcementMode"] == "bootstrap-only"
    assert re.fullmatch(
        r"readiness\.k8s\.io/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", spec["taint"]["key"]
    )
    shown = re.findall(
        r"```yaml\n(apiVersion: readiness.*?)```", (CHART / "README.md").read_text(), re.DOTALL
    )
    assert [yaml.safe_load(text) for text in shown] == [rule]


TAINT = "wesher.dev/tunnels-not-ready=yes:NoSchedule"


@pytest.mark.parametrize(
    ("values", "rights"),
    [
        ([], set()),
        (["mesh.nodeReadiness.condition=true"], {"nodes/status"}),
        ([f"mesh.nodeReadiness.taint={TAINT}"], {"nodes"}),
        (["rbac.nodeReadiness=true"], {"nodes", "nodes/status"}),
        (["mesh.create=false", "mesh.nodeReadiness.condition=true"], set()),
    ],
)
def test_the_operator_may_patch_only_what_node_readiness_needs(
    tmp_path: Path, values: list[str], rights: set[str]
) -> None:
    options = [f"--set={value}" for value in values]
    (rules,) = [
        each["rules"]
        for each in documents(render(tmp_path, *options))
        if each["kind"] == "ClusterRole" and each["metadata"]["name"] == "wesher-operator"
    ]
    patched = {
        resource
        for rule in rules
        for resource in rule["resources"]
        if "patch" in rule["verbs"] and rule["apiGroups"] == [""]
    }
    assert patched == rights


@pytest.mark.parametrize(
    ("values", "tolerated"),
    [
        ([f"mesh.nodeReadiness.taint={TAINT}"], True),
        ([f"mesh.nodeReadiness.taint={TAINT}", "operator.tolerations=null"], True),
        (["mesh.nodeReadiness.condition=true"], False),
        ([f"mesh.nodeReadiness.taint={TAINT}", "mesh.create=false"], False),
    ],
)
def test_the_operator_and_the_hooks_run_on_nodes_with_the_startup_taint(
    tmp_path: Path, values: list[str], *, tolerated: bool
) -> None:
    """Otherwise no operator runs on a cluster whose nodes all have the taint, and it stays."""
    startup = {"key": "wesher.dev/tunnels-not-ready", "operator": "Exists", "effect": "NoSchedule"}
    options = [f"--set={value}" for value in values]
    made = [each for each in documents(render(tmp_path, *options)) if each["kind"] in RUNS_PODS]
    pods = [each["spec"].get("template", each)["spec"] for each in made]
    # Without a mesh, the chart renders no test pod.
    assert len(pods) == (2 if "mesh.create=false" in values else 3)
    assert {startup in pod.get("tolerations", []) for pod in pods} == {tolerated}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_api_server_takes_the_examples(installed: ApiServer, example: Path) -> None:
    applied = ("apply", "--server-side", "--dry-run=server", "--validate=strict")
    said = installed.kubectl(*applied, f"--filename={example}")
    assert said.count("serverside-applied") == len(documents(example.read_text()))
