package flagstream

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"
)

// store is Redis as a map.
type store struct {
	mutex  sync.Mutex
	values map[string]string
	reads  int
	ttl    time.Duration
	err    error
}

func (s *store) Get(_ context.Context, keys ...string) (values []string, err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.reads++
	for _, key := range keys {
		values = append(values, s.values[key])
	}
	return values, s.err
}

func (s *store) SetIfNewer(_ context.Context, key string, _ uint64, ttl time.Duration, value string) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.err == nil {
		s.values[key], s.ttl = value, ttl
	}
	return s.err
}

func (s *store) all() map[string]string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return maps.Clone(s.values)
}

func withStore(t *testing.T, answers []object, options Options) (*Client, *store, *scripted) {
	t.Helper()
	server := newScripted(t, readVectors(t).Answer, answers)
	kept := &store{values: map[string]string{}}
	options.Redis, options.Environment, options.OnError = kept, "production", func(error) {}
	return newClient(t, server.URL, options), kept, server
}

var sharedKey = redisKey("production", "f", "u")

func TestKeysAreThoseOfTheDocumentation(t *testing.T) {
	if key := redisKey("production", "a:b%", "é"); key != "ff_eval:production:a%3Ab%25:é" {
		t.Error(key)
	}
	if key := minVersionKey("production", "a/b{c}"); key != "flagstream:warm:{production/a%2Fb%7Bc%7D}:floor" {
		t.Error(key)
	}
}

func TestABooleanIsWrittenToRedisAndReadFromThere(t *testing.T) {
	client, kept, server := withStore(t, []object{{}}, Options{})
	ctx, who := context.Background(), Who{UserID: "u"}
	if !client.IsEnabled(ctx, "f", who, false) {
		t.Fatal("no answer")
	}
	within(t, func() bool { return kept.all()[sharedKey] != "" })
	var written redisValue
	text := kept.all()[sharedKey]
	if err := json.Unmarshal([]byte(text), &written); err != nil || *written.BasisVersion != 10 || *written.FlagVersion != 10 || !*written.Enabled {
		t.Error(text, err)
	}
	if text[:17] != `{"basis_version":` || kept.ttl != 5*time.Minute {
		t.Error(text, kept.ttl)
	}
	if !client.IsEnabled(ctx, "f", who, false) || !client.BatchEvaluate(ctx, []string{"f"}, who, false)["f"] || len(server.seen()) != 1 {
		t.Error(server.seen())
	}
}

func TestWhatIsNotABooleanOfAUserIsNotInRedis(t *testing.T) {
	answers := []object{{}, {}, {"body": object{"value": "dark"}}, {"body": object{"reason": "ERROR"}}, {"body": object{"killed": true}}, {"body": object{"flag_version": nil}}}
	client, kept, server := withStore(t, answers, Options{OnWarning: func(Evaluation) {}})
	ctx := context.Background()
	client.IsEnabled(ctx, "f", Who{UserID: "u", Context: map[string]any{"a": 1}}, false)
	client.IsEnabled(ctx, "f", Who{UserID: "u", SessionID: "s"}, false)
	client.EvaluateFlag(ctx, "f", Who{UserID: "u"}, One{Default: "light"})
	for range 3 {
		client.IsEnabled(ctx, "f", Who{UserID: "u"}, false)
	}
	if len(kept.all()) != 0 || len(server.seen()) != 6 {
		t.Error(kept.all(), server.seen())
	}
}

func TestWhichValuesOfRedisAreUsed(t *testing.T) {
	for _, row := range readVectors(t).Redis {
		t.Run(row.Name, func(t *testing.T) {
			client, kept, server := withStore(t, []object{{}}, Options{})
			kept.values[sharedKey], kept.values[minVersionKey("production", "f")] = row.Value, row.Minimum
			for _, change := range row.Changes {
				client.apply(change)
			}
			// False in Redis, true at the service.
			if client.IsEnabled(context.Background(), "f", Who{UserID: "u"}, false) == row.IsUsed || (len(server.seen()) == 0) != row.IsUsed {
				t.Error(server.seen())
			}
		})
	}
}

func TestHybridKeepsAValueOfRedisInMemoryForAMinute(t *testing.T) {
	var ahead time.Duration
	options := Options{Cache: true, now: func() time.Time { return time.Now().Add(ahead) }}
	client, kept, _ := withStore(t, []object{{"body": object{"flags_version": 20}}}, options)
	kept.values[sharedKey] = `{"flag_version":10,"enabled":false}`
	is := func(expected bool, reads int) {
		t.Helper()
		if client.IsEnabled(context.Background(), "f", Who{UserID: "u"}, false) != expected || kept.reads != reads {
			t.Error(expected, kept.reads)
		}
	}
	is(false, 1)
	is(false, 1)
	ahead = time.Minute
	is(false, 2)
	client.apply(FlagChange{FlagName: "f", Environment: "production", Version: 20})
	is(true, 3)
}

func TestWhileRedisIsAwayTheServiceIsAskedAndRedisIsSkipped(t *testing.T) {
	var ahead time.Duration
	client, kept, server := withStore(t, []object{{}, {}, {}}, Options{now: func() time.Time { return time.Now().Add(ahead) }})
	kept.err = errors.New("away")
	ctx, who := context.Background(), Who{UserID: "u"}
	if !client.IsEnabled(ctx, "f", who, false) || !client.IsEnabled(ctx, "f", who, false) || kept.reads != 1 || len(server.seen()) != 2 {
		t.Error(kept.reads, server.seen())
	}
	kept.mutex.Lock()
	kept.err = nil
	kept.mutex.Unlock()
	ahead = redisRecovery
	if !client.IsEnabled(ctx, "f", who, false) || kept.reads != 2 {
		t.Error(kept.reads)
	}
	within(t, func() bool { return kept.all()[sharedKey] != "" })
}

func TestAStoreThatHangsDoesNotDelayTheCall(t *testing.T) {
	server := newScripted(t, readVectors(t).Answer, []object{{}})
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	hangs := Redis(func(context.Context, ...any) (any, error) {
		<-ended
		return nil, http.ErrAbortHandler
	})
	client := newClient(t, server.URL, Options{Environment: "production", Redis: hangs})
	if !client.IsEnabled(context.Background(), "f", Who{UserID: "u"}, false) {
		t.Error("no answer")
	}
}

func TestALifetimeTurnsTheCacheInMemoryOn(t *testing.T) {
	server := newScripted(t, readVectors(t).Answer, []object{{}})
	client := newClient(t, server.URL, Options{CacheTTL: time.Minute})
	for _, cached := range []bool{false, true} {
		if answer, err := client.Evaluate(context.Background(), "f", Who{}, One{}); err != nil || answer.Cached != cached {
			t.Error(answer, err)
		}
	}
}
