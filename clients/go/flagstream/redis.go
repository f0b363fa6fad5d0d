package flagstream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// redisTimeout is the time that an evaluation waits for Redis.
	redisTimeout = 100 * time.Millisecond
	// redisWriteTimeout is the time after which a write is given up. No evaluation waits for it.
	redisWriteTimeout = 2 * time.Second
	// redisRecovery is the time for which Redis is skipped after a failure.
	redisRecovery = 2 * time.Second
	// maxRedisWrites: further values are not written while so many writes wait for Redis.
	maxRedisWrites = 100
	// maxNamesBytes is the longest environment, flag and user together; flagstream writes no longer ones either.
	maxNamesBytes = 1_024
)

// setIfNewer sets the key unless its value begins with a higher version. Arguments: version, lifetime in milliseconds, value.
const setIfNewer = `
local kept = tonumber(string.match(redis.call('GETRANGE', KEYS[1], 0, 47), '^{"%l+_version":(%d+)'))
if kept and kept > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
return 1
`

// RedisStore has the commands of Redis that a cache uses. [Redis] makes one of a client of any package. A failure never fails an
// evaluation.
type RedisStore interface {
	// Get returns the value of each key, and "" where there is none. The keys may be on different nodes of a cluster.
	Get(ctx context.Context, keys ...string) ([]string, error)
	// SetIfNewer sets a key unless its value begins with a higher version, in one atomic step.
	SetIfNewer(ctx context.Context, key string, version uint64, ttl time.Duration, value string) error
}

// Redis returns a store for any client of Redis. The function runs one command and returns its reply. With go-redis:
//
//	flagstream.Redis(func(ctx context.Context, command ...any) (any, error) {
//		return client.Do(ctx, command...).Result()
//	})
func Redis(do func(ctx context.Context, command ...any) (any, error)) RedisStore {
	return redisCommands(do)
}

type redisCommands func(ctx context.Context, command ...any) (any, error)

func (do redisCommands) Get(ctx context.Context, keys ...string) ([]string, error) {
	values, failures := make([]string, len(keys)), make([]error, len(keys))
	var reads sync.WaitGroup
	for index, key := range keys {
		reads.Add(1)
		go func() {
			defer reads.Done()
			// GET of a missing key is an error in some packages, MGET is not.
			reply, err := do(ctx, "MGET", key)
			failures[index] = err
			if list, ok := reply.([]any); ok && len(list) == 1 && list[0] != nil {
				if text, isBytes := list[0].([]byte); isBytes {
					values[index] = string(text)
				} else {
					values[index] = fmt.Sprint(list[0])
				}
			}
		}()
	}
	reads.Wait()
	for _, err := range failures {
		if err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (do redisCommands) SetIfNewer(ctx context.Context, key string, version uint64, ttl time.Duration, value string) error {
	_, err := do(ctx, "EVAL", setIfNewer, 1, key, strconv.FormatUint(version, 10), strconv.FormatInt(ttl.Milliseconds(), 10), value)
	return err
}

// redisCache has booleans in Redis, under the keys ff_eval:… that services in all languages and flagstream itself share.
type redisCache struct {
	store   RedisStore
	ttl     time.Duration
	breaker *breaker
	writes  chan struct{}
}

// redisValue begins with a version: BasisVersion, the newest one that its answer is based on, else FlagVersion.
type redisValue struct {
	BasisVersion *uint64 `json:"basis_version,omitempty"`
	FlagVersion  *uint64 `json:"flag_version"`
	Enabled      *bool   `json:"enabled"`
	CachedAt     string  `json:"cached_at"`
}

func (v redisValue) version() uint64 {
	if v.BasisVersion != nil {
		return *v.BasisVersion
	}
	return *v.FlagVersion
}

func newRedisCache(store RedisStore, ttl time.Duration, now func() time.Time) *redisCache {
	return &redisCache{store: store, ttl: ttl, breaker: &breaker{threshold: 1, recovery: redisRecovery, now: now}, writes: make(chan struct{}, maxRedisWrites)}
}

// get reads a value that is not stale.
func (r *redisCache) get(ctx context.Context, environment, flag, user string) (redisValue, bool) {
	if len(environment)+len(flag)+len(user) > maxNamesBytes || r.breaker.enter() != nil {
		return redisValue{}, false
	}
	limited, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	type reply struct {
		values []string
		err    error
	}
	replies := make(chan reply, 1)
	go func() {
		values, err := r.store.Get(limited, redisKey(environment, flag, user), minVersionKey(environment, flag))
		replies <- reply{values, err}
	}()
	var read reply
	select {
	case read = <-replies:
	case <-limited.Done():
		// A client that does not heed its context must not delay the call.
		read.err = limited.Err()
	}
	if read.err != nil || len(read.values) != 2 {
		if ctx.Err() != nil {
			r.breaker.abandoned()
		} else {
			r.failed(read.err)
		}
		return redisValue{}, false
	}
	r.breaker.succeeded()
	return parseRedisValue(read.values[0], read.values[1])
}

// put writes an answer, unless Redis has a newer one. It does not wait.
func (r *redisCache) put(environment, flag, user string, evaluation Evaluation) {
	isLong := len(environment)+len(flag)+len(user) > maxNamesBytes
	if evaluation.FlagVersion == 0 || evaluation.Killed || isLong || r.breaker.isOpen() {
		return
	}
	value := redisValue{&evaluation.FlagsVersion, &evaluation.FlagVersion, &evaluation.Enabled, time.Now().UTC().Format("2006-01-02T15:04:05.000Z")}
	encoded, err := json.Marshal(value)
	if err != nil {
		return
	}
	select {
	case r.writes <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-r.writes }()
		ctx, cancel := context.WithTimeout(context.Background(), redisWriteTimeout)
		defer cancel()
		if err := r.store.SetIfNewer(ctx, redisKey(environment, flag, user), evaluation.FlagsVersion, r.ttl, string(encoded)); err != nil {
			r.failed(err)
		}
	}()
}

func (r *redisCache) failed(err error) {
	wasOpen := r.breaker.isOpen()
	r.breaker.failed()
	if !wasOpen {
		slog.Warn("flagstream: Redis does not answer, its cache is skipped until it does", "error", err)
	}
}

func parseRedisValue(text, minVersion string) (value redisValue, isUsable bool) {
	if json.Unmarshal([]byte(text), &value) != nil || value.FlagVersion == nil || value.Enabled == nil {
		return redisValue{}, false
	}
	var least uint64
	if minVersion != "" {
		var err error
		if least, err = strconv.ParseUint(minVersion, 10, 64); err != nil {
			return redisValue{}, false
		}
	}
	return value, value.version() >= least
}

func redisKey(environment, flag, user string) string {
	return "ff_eval:" + escaped(environment, "%:") + ":" + escaped(flag, "%:") + ":" + escaped(user, "%:")
}

// minVersionKey is the key of the version below which values of the flag are stale.
func minVersionKey(environment, flag string) string {
	return "flagstream:warm:{" + escaped(environment, "%:/{}") + "/" + escaped(flag, "%:/{}") + "}:floor"
}

func escaped(part, special string) string {
	var text strings.Builder
	for index := range len(part) {
		if strings.IndexByte(special, part[index]) >= 0 {
			fmt.Fprintf(&text, "%%%02X", part[index])
		} else {
			text.WriteByte(part[index])
		}
	}
	return text.String()
}
