"""The command line: runs the parts, prints their problems and the time of each."""

import argparse
import sys
import time

from teststack.install import InstallError

from . import asyncapi, chart, dashboard, examples, image, names, rules, site, tools, values

# Name, module; a module has `check(root)`, which yields problems, and may have `fix(root)`, which writes generated files.
PARTS = {
    "values": values,
    "chart": chart,
    "rules": rules,
    "dashboard": dashboard,
    "names": names,
    "asyncapi": asyncapi,
    "examples": examples,
    "image": image,
    "site": site,
}


def main(root, argv):
    parser = argparse.ArgumentParser(prog="scripts/deploy-check")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--fix", action="store_true", help="write the generated files first")
    parser.add_argument("--list", action="store_true", help="print what each part checks")
    options = parser.parse_args(argv)
    if options.list:
        for name, part in PARTS.items():
            print(f"{name:<10} {part.__doc__.splitlines()[0]}")
        return 0
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    # Packages of the checks, for the modules that import them.
    sys.path.insert(0, str(tools.python_path()))
    chosen = {name: part for name, part in PARTS.items() if not options.parts or name in options.parts}
    if options.fix:
        for part in chosen.values():
            getattr(part, "fix", lambda _: None)(root)
    return 1 if sum(_run(name, part, root) for name, part in chosen.items()) else 0


def _run(name, part, root):
    """Runs one part and returns the number of its problems."""
    start, problems = time.monotonic(), []
    try:
        problems = list(part.check(root))
        outcome = f"{len(problems)} problems" if problems else "ok"
    except tools.Missing as reason:
        outcome = f"SKIPPED: {reason}"
    except InstallError as error:
        problems = [str(error)]
        outcome = "a tool cannot be installed"
    for problem in problems:
        print(f"{name}: {problem}")
    print(f"deploy-check: {name}: {outcome} ({time.monotonic() - start:.1f} s)", flush=True)
    return len(problems)
