//! Opens the database for commands that read what `run` or `dev` wrote.

use anyhow::{Context, anyhow};

use crate::config::Secret;
use crate::database::{Database, DatabaseError, DatabaseFault};

/// Opens the database. An error if it does not exist or has no tables; nothing is created.
pub async fn open(url: &Secret, name: &str) -> anyhow::Result<Database> {
    let database = Database::open_existing(url, name).map_err(|error| match error {
        DatabaseError::NoFile(_) => {
            anyhow!("{error}: start `flagstream dev` there, run `flagstream migrate`, or check DATABASE_URL")
        }
        error => error.into(),
    })?;
    match database.has_tables().await {
        Ok(true) => Ok(database),
        Ok(false) => Err(anyhow!(
            "{database} has no flagstream tables: run `flagstream migrate`, or check DATABASE_URL"
        )),
        // Another user may own that table. The command may succeed without reading it.
        Err(error) if error.trouble() != DatabaseFault::Unreachable => Ok(database),
        Err(error) => Err(error).with_context(|| database.to_string()),
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_missing_or_empty_is_reported_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.db");
        let url = Secret::new(format!("sqlite:{}", file.display()));
        let error = open(&url, "test").await.unwrap_err().to_string();
        assert!(
            error.starts_with("there is no SQLite file at ") && error.contains("flagstream dev"),
            "{error}"
        );
        assert!(!file.exists());

        std::fs::write(&file, "").unwrap();
        let error = open(&url, "test").await.unwrap_err().to_string();
        assert!(error.contains("has no flagstream tables: run `flagstream migrate`"), "{error}");

        Database::open(&url, "test").unwrap().migrate().await.unwrap();
        open(&url, "test").await.unwrap();
    }
}
