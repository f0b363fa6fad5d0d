use super::*;

#[test]
fn values_are_bound_and_never_part_of_the_text() {
    let text = "'; DROP TABLE x; --".to_owned();
    let selection = EvaluationSelection {
        user_id: Some(text.clone()),
        flag_name: Some(text.clone()),
        environments: Some(vec![text.clone(), "e".to_owned()]),
        reason: Some(text.clone()),
        variant: Some(text.clone()),
        request_id: Some(text.clone()),
    };
    let filter = SearchFilter {
        selection,
        from: Some(DateTime::UNIX_EPOCH),
        to: Some(DateTime::UNIX_EPOCH),
        after: Some(Before { evaluated_at: DateTime::UNIX_EPOCH, id: 7 }),
        limit: 10,
        with_users: true,
    };
    for is_postgres in [true, false] {
        let question = Question::of(&filter, is_postgres);
        assert!(!question.text.contains("DROP"), "{}", question.text);
        assert_eq!(question.values.iter().filter(|value| **value == text).count(), 6);
        assert_eq!(question.text.contains("::"), is_postgres, "{}", question.text);
        assert!(question.text.ends_with("LIMIT 11"), "{}", question.text);
    }
}

#[test]
fn a_caller_without_environments_finds_nothing() {
    let selection = EvaluationSelection { environments: Some(Vec::new()), ..EvaluationSelection::default() };
    let filter = SearchFilter { selection, limit: 1, ..SearchFilter::default() };
    assert!(Question::of(&filter, true).text.contains("WHERE 1 = 0"));
}
