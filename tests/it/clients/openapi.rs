//! The document of the API, as tools of others read it: Redocly's recommended rules, and a client that is generated from it.

use std::path::Path;
use std::process::Command;

use crate::harness::{Group, Stack, get, temporary_folder};

use super::run;

#[test]
fn the_document_passes_a_linter_and_a_generated_client_compiles() {
    let (stack, _shared) = Stack::shared();
    let group = Group::new(stack);
    let service = group.start("one");
    let (status, document) = get(&format!("{}/openapi.json", service.url)).unwrap();
    assert_eq!(status, 200);
    let folder = temporary_folder();
    std::fs::write(folder.path().join("openapi.json"), document).unwrap();
    let call = "import type { operations } from './client.js';\n\
        type Body = operations['evaluateFlag']['requestBody']['content']['application/json'];\n\
        export const body: Body = { flag_name: 'new-ui-enabled', user_id: 'user-123', default_value: false };\n";
    std::fs::write(folder.path().join("use.ts"), call).unwrap();
    let tool = |name: &str, arguments: &[&str]| {
        let program = Path::new(&stack.node_modules).join(".bin").join(name);
        run(Command::new(program).args(arguments).current_dir(folder.path()).env("REDOCLY_TELEMETRY", "off"))
    };
    // Warnings count: with none of them allowed, the tool says how many it would have accepted.
    let linted = tool("redocly", &["lint", "openapi.json", "--max-problems=1000", "--format=json"]);
    let start = linted.find('{').unwrap_or_else(|| panic!("{linted}"));
    let report: serde_json::Value =
        serde_json::Deserializer::from_str(&linted[start..]).into_iter().next().unwrap().unwrap();
    assert_eq!(report["totals"]["errors"], 0, "{report:#}");
    assert_eq!(report["totals"]["warnings"], 0, "{report:#}");
    tool("openapi-typescript", &["openapi.json", "-o", "client.ts"]);
    tool("tsc", &["--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "use.ts"]);
}
