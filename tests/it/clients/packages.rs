//! The clients as packages: what a registry would receive, and what a user would install.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Stack, temporary_folder};

use super::{folder, python, run};

const PACKAGES: [&str; 5] = ["clients/go", "clients/java", "clients/node", "clients/python", "clients/rust"];
const LICENCES: [&str; 2] = ["LICENSE-MIT", "LICENSE-APACHE"];

#[test]
fn every_package_has_the_projects_licences() {
    for (package, licence) in PACKAGES.iter().flat_map(|package| LICENCES.map(|licence| (package, licence))) {
        let copy = std::fs::read_to_string(folder(package).join(licence));
        assert_eq!(copy.unwrap(), std::fs::read_to_string(folder(licence)).unwrap(), "{package}/{licence}");
    }
}

/// A registry shows a README without the repository around it.
#[test]
fn readmes_of_packages_link_to_nothing_outside_of_them() {
    for package in PACKAGES {
        let text = std::fs::read_to_string(folder(package).join("README.md")).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let is_within = !target.contains("..") && folder(package).join(target).exists();
            assert!(target.starts_with("https://") || is_within, "{package}/README.md: {target}");
        }
        assert!(text.contains("published"), "{package}/README.md says that it is not published");
    }
}

#[test]
fn the_wheel_for_python_has_types_licences_and_metadata() {
    let (stack, _shared) = Stack::shared();
    let (built, installed) = (temporary_folder(), temporary_folder());
    let mut command = python(stack);
    command.args(["-m", "hatchling", "build", "-t", "wheel", "-d"]).arg(built.path());
    run(command.current_dir(folder("clients/python")));
    let wheel = std::fs::read_dir(built.path()).unwrap().next().unwrap().unwrap().path();
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(installed.path()));
    let metadata = installed.path().join("flagstream_client-0.1.0.dist-info");
    for licence in LICENCES {
        assert!(metadata.join("licenses").join(licence).exists(), "{licence}");
    }
    let metadata = std::fs::read_to_string(metadata.join("METADATA")).unwrap();
    for line in [
        "Author: flagstream contributors",
        "License-Expression: MIT OR Apache-2.0",
        "Classifier: Typing :: Typed",
    ] {
        assert!(metadata.lines().any(|known| known == line), "{line}: {metadata}");
    }

    // What the type checker of a service sees, which has only the wheel.
    let sample = built.path().join("typed.py");
    std::fs::copy(folder("clients/python/tests/typed.py"), &sample).unwrap();
    let mut mypy = python(stack);
    mypy.env("PYTHONPATH", format!("{}:{}", stack.python_path, installed.path().display()));
    mypy.args(["-m", "mypy", "--strict", "typed.py"]).current_dir(built.path());
    let said = run(&mut mypy);
    assert!(said.contains("no issues found in 1 source file"), "{said}");
}

#[test]
fn the_package_for_node_has_types_licences_and_all_that_it_exports() {
    let mut npm = Command::new("npm");
    npm.args(["pack", "--dry-run", "--json", "--offline"]).current_dir(folder("clients/node"));
    let packed: Value = serde_json::from_str(&run(&mut npm)).unwrap();
    let files = packed[0]["files"].as_array().unwrap().iter();
    let files: Vec<_> = files.map(|file| file["path"].as_str().unwrap()).collect();
    let package = std::fs::read_to_string(folder("clients/node/package.json")).unwrap();
    let package: Value = serde_json::from_str(&package).unwrap();
    let exported = package["exports"]["."].as_object().unwrap().values();
    let named =
        exported.chain([&package["types"]]).map(|path| path.as_str().unwrap().trim_start_matches("./"));
    for file in named.chain(LICENCES).chain(["README.md"]) {
        assert!(files.contains(&file), "{file}: {files:?}");
    }
    assert!(files.iter().all(|file| !file.starts_with("test")), "{files:?}");
    assert_eq!((&package["license"], &package["sideEffects"]), (&"MIT OR Apache-2.0".into(), &false.into()));
}
