"""Checks rendered Kubernetes manifests: python manifests.py 1.30 1.37 -- rendered.yaml …

Every object has to fit the strict schema of each Kubernetes release (no unknown field, none missing,
each of its type); every variable of Natter's has to be a key of deploy/natter.toml; and pods have to
be as locked up, and as patient, as docs/kubernetes.md says.
"""

import functools
import json
import pathlib
import re
import sys

import jsonschema
import kubernetes_validate
import kubernetes_validate.utils
import yaml

HERE = pathlib.Path(__file__).parent
CONFIG = HERE.parent.parent / "deploy" / "natter.toml"
# Kinds that are not Kubernetes' own: strict schemas of the part that we use.
OWN_SCHEMAS = {("monitoring.coreos.com/v1", "ServiceMonitor"): HERE / "servicemonitor.schema.json"}

# It reads megabytes of definitions anew for each object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error, as for Kubernetes."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: twice: {', '.join(sorted(twice))}")
        return super().construct_mapping(node, deep)


def against_schemas(thing, releases):
    """Yields what is wrong with an object for each release."""
    own = OWN_SCHEMAS.get((thing.get("apiVersion"), thing.get("kind")))
    if own:
        for error in jsonschema.Draft202012Validator(json.loads(own.read_text())).iter_errors(thing):
            yield f"{error.json_path}: {error.message}"
        return
    for release in releases:
        try:
            checked = kubernetes_validate.validate(thing, release, strict=True)
            if checked != release:
                yield f"there are no schemas of Kubernetes {release}"
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            yield f"Kubernetes {release}: {path}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield error.message


def variables_of_config():
    """The variable of each key of natter.toml, of those that are commented out too."""
    names, section = set(), None
    for line in CONFIG.read_text().splitlines():
        if match := re.match(r"\[(\w+)\]$", line):
            section = match[1]
        elif match := re.match(r"#?(\w+) = ", line):
            parts = [section, match[1]] if section else [match[1]]
            names.add("NATTER_" + "__".join(parts).upper())
    return names


def pod_of(thing):
    if thing["kind"] in ("Deployment", "Job"):
        return thing["spec"]["template"]["spec"]
    return thing["spec"] if thing["kind"] == "Pod" else None


def about_pod(pod, known):
    """Yields what is wrong with a pod beyond what schemas say."""
    outer = pod.get("securityContext", {})
    if not outer.get("runAsNonRoot") or outer.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "may run as root, or without seccomp"
    if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks") is not False:
        yield "gets an account's token or the variables of services"
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        inner = container.get("securityContext", {})
        if (
            not inner.get("readOnlyRootFilesystem")
            or inner.get("allowPrivilegeEscalation") is not False
            or inner.get("capabilities") != {"drop": ["ALL"]}
        ):
            yield f"{container['name']}: may write to its root, or become more than it is"
        if not container.get("resources", {}).get("limits", {}).get("memory"):
            yield f"{container['name']}: has no limit of memory"
        mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", [])}
        if set(mounts) != volumes:
            yield f"{container['name']}: mounts {sorted(mounts)}, but the volumes are {sorted(volumes)}"
        env = {}
        for variable in container.get("env", []):
            name = variable["name"]
            if name in env:
                yield f"{name} is set twice"
            if name not in known:
                yield f"{name} is not a key of deploy/natter.toml"
            env[name] = variable.get("value")
            if name.endswith("_FILE") and not any(env[name].startswith(path + "/") for path in mounts.values()):
                yield f"{name} is {env[name]}, which is not mounted"
        if drain := env.get("NATTER_GATEWAY__DRAIN_TIMEOUT"):
            before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            needed, given = before + int(drain.removesuffix("s")), pod["terminationGracePeriodSeconds"]
            if given <= needed:
                yield f"is killed after {given} s, but needs {needed} s to drain"


def about_rollout(thing):
    """Yields what is wrong with how a Deployment replaces its pods: one has to be gone before the next one goes."""
    pod, spec = pod_of(thing), thing["spec"]
    for container in pod["containers"]:
        env = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
        if drain := env.get("NATTER_GATEWAY__DRAIN_TIMEOUT"):
            needed = container["lifecycle"]["preStop"]["sleep"]["seconds"] + int(drain.removesuffix("s"))
            given = spec.get("minReadySeconds", 0)
            if given < needed:
                yield f"takes the next pod after {given} s, while the one before drains for {needed} s"
            if spec.get("progressDeadlineSeconds", 600) <= given:
                yield f"has failed before a pod is ready for {given} s"


def main():
    arguments = sys.argv[1:]
    releases, files = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    known, problems, seen = variables_of_config(), [], 0
    for file in map(pathlib.Path, files):
        try:
            things = [thing for thing in yaml.load_all(file.read_text(), StrictLoader) if thing]
        except yaml.YAMLError as error:
            problems.append(f"{file.name}: {error}")
            continue
        if not things:
            problems.append(f"{file.name}: holds nothing")
        named = set()
        for thing in things:
            seen += 1
            name = f"{thing.get('kind')}/{thing.get('metadata', {}).get('name')}"
            found = list(against_schemas(thing, releases))
            if name in named:
                found.append("is there twice")
            named.add(name)
            if not found and (pod := pod_of(thing)):
                found = list(about_pod(pod, known))
                if thing["kind"] == "Deployment":
                    found += about_rollout(thing)
            problems += [f"{file.name}: {name}: {problem}" for problem in found]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{seen} objects of {len(files)} files, for Kubernetes {' and '.join(releases)}: {len(problems)} problems")
    sys.exit(1 if problems or not seen else 0)


main()
