"""Helm lint and template over the value sets in ci/, against the schemas of Kubernetes 1.31 to 1.34 and of the custom resources."""

import subprocess
import tempfile
from pathlib import Path

from . import tools

CHART = "deploy/helm/flagstream"
KUBERNETES = ("1.31", "1.32", "1.33", "1.34")
RELEASE, NAMESPACE = "rel", "flags"

# Values that the schema or a template must reject, with a part of the message.
REJECTED = {
    "": "kafka.bootstrapServers is required",
    "kafka.bootstrapServers=k:9092,kafka.groupID=typo": "groupID",
    "kafka.bootstrapServers=k:9092,workload.roles[0]=evalutor": "roles",
    "kafka.bootstrapServers=k:9092,workload.stopSeconds=3": "stopSeconds",
    "kafka.bootstrapServers=k:9092,image.digest=latest": "digest",
    "kafka.bootstrapServers=k:9092,settings.lower=1": "lower",
}


def check(root):
    import yaml

    helm, chart = tools.helm(), root / CHART
    sets = sorted((chart / "ci").glob("*.yaml"))
    if len(sets) < 6:
        yield f"{CHART}/ci: has {len(sets)} value sets, fewer than 6"
    definitions = _definitions()
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": "/usr/bin:/bin", "HOME": home}

        def call(*argv):
            return subprocess.run([helm, *map(str, argv)], env=environment, capture_output=True, text=True, check=False)

        seen = set()
        for values in sets:
            lint = call("lint", "--strict", chart, "--values", values)
            if lint.returncode:
                yield f"{values.name}: helm lint: {lint.stdout}{lint.stderr}"
            rendered = call("template", RELEASE, chart, "--namespace", NAMESPACE, "--values", values, "--api-versions", "monitoring.coreos.com/v1")
            if rendered.returncode:
                yield f"{values.name}: helm template: {rendered.stderr}"
                continue
            objects = [item for item in yaml.safe_load_all(rendered.stdout) if item]
            seen |= {item["kind"] for item in objects}
            for problem in (*_schemas(objects, definitions), *_restricted(objects), *_references(objects)):
                yield f"{values.name}: {problem}"
        for values, expected in REJECTED.items():
            answer = call("template", RELEASE, chart, *(["--set", values] if values else []))
            if answer.returncode == 0 or expected not in answer.stderr:
                yield f"--set {values or '(nothing)'}: expected an error with {expected!r}, got: {answer.stderr or 'success'}"
    wanted = {"StatefulSet", "Service", "PodDisruptionBudget", "ConfigMap", "ServiceAccount", "ServiceMonitor", "PrometheusRule",
              "ScaledObject", "NetworkPolicy", "Ingress", "Job"}
    if missing := wanted - seen:
        yield f"no value set renders {', '.join(sorted(missing))}"


def _definitions():
    """The schemas of the custom resources, by apiVersion and kind."""
    import yaml

    found = {}
    for file in tools.custom_resources().glob("*.yaml"):
        definition = yaml.safe_load(file.read_text())["spec"]
        for version in definition["versions"]:
            found[f"{definition['group']}/{version['name']}", definition["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    return found


def _closed(schema):
    """The schema without unknown members, as `kubectl --validate=strict` reads it."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    members = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if members and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed["additionalProperties"] = False
    return closed


def _schemas(objects, definitions):
    import jsonschema
    import kubernetes_validate

    for item in objects:
        name = f"{item['kind']}/{item['metadata']['name']}"
        schema = definitions.get((item["apiVersion"], item["kind"]))
        if schema:
            body = {key: value for key, value in item.items() if key != "metadata"}
            for error in jsonschema.Draft7Validator(_closed(schema)).iter_errors(body):
                yield f"{name}: {error.json_path}: {error.message}"
            continue
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}: Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"
            except (kubernetes_validate.InvalidSchemaError, kubernetes_validate.SchemaNotFoundError) as error:
                yield f"{name}: Kubernetes {version}: {error}"


def _pods(objects):
    for item in objects:
        if item["kind"] in ("StatefulSet", "Job"):
            yield f"{item['kind']}/{item['metadata']['name']}", item["spec"]["template"]


def _restricted(objects):
    """The Pod Security Standard `restricted`, a read-only root and no token of the API of Kubernetes."""
    for name, template in _pods(objects):
        spec = template["spec"]
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: mounts a token of the service account"
        pod = spec.get("securityContext", {})
        if pod.get("runAsNonRoot") is not True or pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: the pod's security context is not restricted"
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            context = container.get("securityContext", {})
            good = context.get("allowPrivilegeEscalation") is False and context.get("readOnlyRootFilesystem") is True
            if not good or context.get("capabilities", {}).get("drop") != ["ALL"]:
                yield f"{name}: container {container['name']}: the security context is not restricted"
            if not container.get("resources", {}).get("limits", {}).get("memory"):
                yield f"{name}: container {container['name']}: has no memory limit"


def _references(objects):
    """Names that one object uses of another: ConfigMaps, volumes, pods of selectors, ports, targets of scaling."""
    named = {(item["kind"], item["metadata"]["name"]): item for item in objects}
    if len(named) != len(objects):
        yield "two objects have one kind and name"
    pods = [template for _, template in _pods(objects)]
    for name, template in _pods(objects):
        spec, hook = template["spec"], name.startswith("Job/")
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in named[tuple(name.split("/"))]["spec"].get("volumeClaimTemplates", [])}
        maps = [volume["configMap"]["name"] for volume in spec.get("volumes", []) if "configMap" in volume]
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            maps += [source["configMapRef"]["name"] for source in container.get("envFrom", []) if "configMapRef" in source]
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{name}: there is no volume {mount['name']}"
        for reference in maps:
            found = named.get(("ConfigMap", reference))
            if not found:
                yield f"{name}: there is no ConfigMap {reference}"
            elif hook and "helm.sh/hook" not in found["metadata"].get("annotations", {}):
                yield f"{name}: runs before the ConfigMap {reference} exists"
        account = spec.get("serviceAccountName")
        if not hook and account and ("ServiceAccount", account) not in named and account != "flags":
            yield f"{name}: there is no ServiceAccount {account}"
    for (kind, name), item in named.items():
        if kind == "Service":
            yield from _service(name, item["spec"], pods)
        elif kind == "PodDisruptionBudget" and not _matching(item["spec"]["selector"]["matchLabels"], pods):
            yield f"{kind}/{name}: selects no pods"
        elif kind == "ScaledObject" and ("StatefulSet", item["spec"]["scaleTargetRef"]["name"]) not in named:
            yield f"{kind}/{name}: there is no StatefulSet {item['spec']['scaleTargetRef']['name']}"
        elif kind == "ScaledObject" and "replicas" in named["StatefulSet", name]["spec"]:
            yield f"{kind}/{name}: the StatefulSet sets its replicas too"
        elif kind == "StatefulSet" and ("Service", item["spec"]["serviceName"]) not in named:
            yield f"{kind}/{name}: there is no Service {item['spec']['serviceName']}"
        elif kind == "ServiceMonitor" and not any(
            other["kind"] == "Service" and item["spec"]["selector"]["matchLabels"].items() <= other["metadata"]["labels"].items()
            for other in objects
        ):
            yield f"{kind}/{name}: selects no Service"


def _service(name, spec, pods):
    chosen = _matching(spec["selector"], pods)
    if len(chosen) != 1:
        yield f"Service/{name}: selects the pods of {len(chosen)} workloads"
    for template in chosen:
        ports = {port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])}
        for port in spec["ports"]:
            if port["targetPort"] not in ports:
                yield f"Service/{name}: the pods have no port {port['targetPort']}"


def _matching(selector, pods):
    return [template for template in pods if selector.items() <= template["metadata"]["labels"].items()]
