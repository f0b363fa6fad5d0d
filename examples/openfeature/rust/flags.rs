//! OpenFeature in Rust. The provider calls the service over HTTP, or evaluates in this process with flags from Kafka.

use std::env::var;
use std::error::Error;

use flagstream_openfeature::{HttpOptions, HttpProvider, InProcessProvider};
use open_feature::{Client, EvaluationContext, OpenFeature, StructValue};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut api = OpenFeature::default();
    if var("FLAGSTREAM_IN_PROCESS").is_ok() {
        // The settings of the service: KAFKA_BOOTSTRAP_SERVERS, UNLEASH_ENVIRONMENT, …
        api.set_provider(InProcessProvider::start(std::env::vars_os())?).await;
    } else {
        let url = var("FLAGSTREAM_URL").unwrap_or_else(|_| "http://localhost:8082".to_owned());
        // An API token would be one more option: `token: Some("fst_…".into())`.
        let options = HttpOptions { environment: Some("production".to_owned()), ..HttpOptions::default() };
        api.set_provider(HttpProvider::new(&url, options)?).await;
    }
    show(&api.create_client()).await;
    Ok(())
}

async fn show(client: &Client) {
    let user = EvaluationContext::default()
        .with_targeting_key("user-1")
        .with_custom_field("subscription_tier", "premium");
    let premium = client.get_bool_value("premium", Some(&user), None).await.unwrap_or(false);
    let theme = client.get_string_value("theme", Some(&user), None).await.unwrap_or("light".to_owned());
    let retries = client.get_int_value("max-retries", Some(&user), None).await.unwrap_or(3);
    let config: StructValue = client.get_struct_value("config", Some(&user), None).await.unwrap_or_default();
    let regions = config.fields.get("regions").and_then(|regions| regions.as_array());
    let region = regions.and_then(|regions| regions.first()?.as_str()).unwrap_or("none");
    println!("premium {premium}");
    println!("theme {theme}");
    println!("max-retries {retries}");
    println!("first region {region}");
    if let Err(error) = client.get_bool_value("unknown", Some(&user), None).await {
        println!("unknown {}", error.code);
    }
}
