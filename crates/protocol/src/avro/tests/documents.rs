//! The documented examples, and the schemas that were released.

use super::*;

/// JSON examples in a section of docs/api.md.
fn examples(heading: &str) -> Vec<Json> {
    let document = include_str!("../../../../../docs/api.md");
    let (_, section) = document.split_once(&format!("\n{heading}")).unwrap();
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let blocks = section.split("```json\n").skip(1).map(|block| block.split_once("```").unwrap().0);
    blocks.map(|block| serde_json::from_str(block).unwrap()).collect()
}

#[test]
fn the_documents_examples_are_of_the_schemas() {
    for (heading, kind, count) in [
        ("## Request", Kind::Request, 2),
        ("## Result:", Kind::Evaluated, 1),
        ("## Results of several flags", Kind::EvaluatedTogether, 1),
        ("## Reply", Kind::Reply, 1),
        ("## Hint", Kind::Hint, 1),
        ("## Definition", Kind::Definition, 1),
        ("## Change event", Kind::Changed, 2),
    ] {
        // The kill switch record itself has no Avro form.
        let examples = examples(heading).into_iter().filter(|example| example.get("state").is_none());
        let examples: Vec<Json> = examples.collect();
        assert_eq!(examples.len(), count, "{heading}");
        for mut example in examples {
            // The example may omit microseconds; flagstream's form always has them.
            if let Some(at) = example.get_mut("requested_at") {
                *at = "2026-01-15T10:30:00.000000Z".into();
            }
            there_and_back(kind, &example);
        }
    }
}

#[test]
fn the_document_has_every_field_of_a_request() {
    let Schema::Record(record) = Kind::Request.schema() else { panic!() };
    let document = include_str!("../../../../../docs/api.md");
    for field in &record.fields {
        assert!(document.contains(&format!("`{}`", field.name)), "{}", field.name);
    }
}

#[test]
fn schemas_stay_compatible_with_the_released_ones() {
    let read = |writer: &Schema, reader: &Schema| {
        apache_avro::schema_compatibility::SchemaCompatibility::can_read(writer, reader)
    };
    for kind in Kind::ALL {
        // Bulk events are not part of a release yet.
        if kind == Kind::EvaluatedTogether {
            continue;
        }
        let path = format!("{}/../../schemas/released/{}.avsc", env!("CARGO_MANIFEST_DIR"), kind.file());
        let released = Schema::parse_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(read(&released, kind.schema()).map_err(|e| e.to_string()).err(), None, "backward: {path}");
        assert_eq!(read(kind.schema(), &released).map_err(|e| e.to_string()).err(), None, "forward: {path}");
    }
    let without = Kind::Reply.text().replace("flags_version", "version_of_flags");
    let without = Schema::parse_str(&without).unwrap();
    assert!(read(Kind::Reply.schema(), &without).is_err());
    assert!(read(&without, Kind::Reply.schema()).is_err());
}
