//! Ways to authenticate to Kafka that this build does not have are refused at the start, by name.

use crate::child::command;

/// The standard error of a start with this mechanism, which must fail as a wrong configuration.
fn refused(settings: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.arg("run").env("FLAGSTREAM_KAFKA__CLIENT__SECURITY_PROTOCOL", "SASL_SSL");
    let output = command.envs(settings.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{settings:?}: {text}");
    text
}

#[test]
fn mechanisms_that_this_build_lacks_are_refused_at_the_start_with_what_to_use() {
    for mechanism in ["OAUTHBEARER", "AWS_MSK_IAM", "GSSAPI"] {
        let text = refused(&[("FLAGSTREAM_KAFKA__CLIENT__SASL_MECHANISM", mechanism)]);
        for part in ["FLAGSTREAM_KAFKA__CLIENT__SASL_MECHANISM", mechanism, "SCRAM-SHA-512"] {
            assert!(text.contains(part), "{mechanism}: {text}");
        }
        assert_eq!(text.contains("AWS MSK use SCRAM (port 9096)"), mechanism != "GSSAPI", "{text}");
    }
}

#[test]
fn tokens_of_an_identity_provider_are_refused_at_the_start() {
    let text = refused(&[
        ("FLAGSTREAM_KAFKA__CLIENT__SASL_MECHANISM", "OAUTHBEARER"),
        ("FLAGSTREAM_KAFKA__CLIENT__SASL_OAUTHBEARER_METHOD", "oidc"),
        ("FLAGSTREAM_KAFKA__CLIENT__SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", "https://idp.example.com/token"),
    ]);
    assert!(text.contains("SASL_OAUTHBEARER_METHOD") && text.contains("built without curl"), "{text}");
}
