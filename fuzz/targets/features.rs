//! Any bytes as Unleash's answer: the answer is refused, a flag is refused by its name, or it evaluates. Never a
//! panic.
#![no_main]

use flagstream::feed::answer::Answer;
use flagstream::flag::value::{Lookup, answer};
use flagstream::flag::{CompiledFlag, EvaluationContext, FlagChange, Moment, Snapshot, ValueType, definition};
use libfuzzer_sys::fuzz_target;

const ENVIRONMENT: &str = "development";

fuzz_target!(|body: &[u8]| {
    let Ok(read) = Answer::read(body) else { return };
    let flags = read.features.iter().filter_map(|feature| {
        let json = definition::inline_segments(feature.json.get(), &read.segments).ok()?;
        let flag = CompiledFlag::compile(ENVIRONMENT, 1, &json);
        flag.inspect_err(|error| assert!(!error.to_string().is_empty())).ok()
    });
    let snapshot = Snapshot::default().with(flags.map(|flag| FlagChange::Set(flag.into())));
    let Some(flags) = snapshot.environment(ENVIRONMENT) else { return };
    let context = EvaluationContext { user_id: Some("user-1".into()), ..EvaluationContext::default() };
    let moment = Moment { now: "2026-01-15T10:30:00Z", hostname: "h", app_name: "fuzz" };
    for flag in flags.iter() {
        let found = flags.evaluate(&flag.name, &context, &moment).expect("it is there");
        for value_type in [ValueType::Boolean, ValueType::String, ValueType::Number, ValueType::Object] {
            std::hint::black_box(answer(&flag.name, Lookup::Found(found), value_type, None));
        }
    }
});
