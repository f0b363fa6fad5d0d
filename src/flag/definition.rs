//! Unleash's client feature JSON, read leniently and validated.
