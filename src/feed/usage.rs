#[derive(Debug, Default)]
pub struct Usage;
impl Usage {
    pub fn merge<'a>(&self, _e: &str, _f: &str, _y: u64, _n: u64, _v: impl Iterator<Item = (&'a str, u64)>) {}
}
