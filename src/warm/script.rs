//! What must happen inside Redis in one step.
//!
//! In a cluster a script may only touch keys of one slot, so each works on one value at a time or on keys that
//! share a hash tag. Versions are numbers of Lua, exact up to 2^53: milliseconds until the year 287396.

/// A script by its place in [`ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Write,
    Renew,
    List,
    Raise,
}

/// Texts, in the order of [`Script`].
pub(super) const ALL: [&str; 4] = [WRITE, RENEW, LIST, RAISE];

impl Script {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Write => WRITE,
            Self::Renew => RENEW,
            Self::List => LIST,
            Self::Raise => RAISE,
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// Puts values where there are others that are not newer; answers how many were refused, and then the places of keys
/// that are gone and were left alone: they may not be listed any more. First whether these are to be put as well. For
/// each key: its version, its life in milliseconds (negative: the moment of its end), its value. What has no version at
/// its beginning is not ours, and older than anything.
const WRITE: &str = r#"
local call, create, answer = redis.call, ARGV[1] == '1', {0}
for i = 1, #KEYS do
  local at, key = 3 * i - 1, KEYS[i]
  local there = call('GETRANGE', key, 0, 47)
  if there == '' and not create then
    answer[#answer + 1] = i
  else
    local kept = tonumber(string.match(there, '^{"%l+_version":(%d+)'))
    if kept and kept > tonumber(ARGV[at]) then
      answer[1] = answer[1] + 1
    else
      local life, unit = ARGV[at + 1], 'PX'
      if string.byte(life) == 45 then
        life, unit = string.sub(life, 2), 'PXAT'
      end
      call('SET', key, ARGV[at + 2], unit, life)
    end
  end
end
return answer
"#;

/// Brings values that are there and older up to date, for as long as they would have lived anyway; answers how many.
/// For each key: its version and its value, which is empty if the key is to go.
const RENEW: &str = r#"
local changed = 0
for i, key in ipairs(KEYS) do
  local at = 2 * i - 1
  local old = redis.call('GETRANGE', key, 0, 47)
  if old ~= '' then
    local kept = tonumber(string.match(old, '^{"%l+_version":(%d+)'))
    if not kept or kept < tonumber(ARGV[at]) then
      if ARGV[at + 1] == '' then
        redis.call('UNLINK', key)
      else
        redis.call('SET', key, ARGV[at + 1], 'KEEPTTL')
      end
      changed = changed + 1
    end
  end
end
return changed
"#;

/// Begins a chunk with some members; answers how many it has. Keys: chunk, registry of the flag's chunks; then: now,
/// the chunk's life, members.
const LIST: &str = r#"
local now, life = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + life, KEYS[1])
redis.call('PEXPIRE', KEYS[2], life)
local length = redis.call('RPUSH', KEYS[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], life)
return length
"#;

/// Raises a number; answers what it is then. Then: the number, its life in milliseconds.
const RAISE: &str = r#"
local there = tonumber(redis.call('GET', KEYS[1]) or '0')
if there > tonumber(ARGV[1]) then return there end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return tonumber(ARGV[1])
"#;
