package flagstream

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// commands runs commands of Redis, each on its own connection.
func commands(t *testing.T) RedisStore {
	t.Helper()
	address, err := url.Parse(os.Getenv("CLIENT_REDIS_URL"))
	if err != nil || address.Host == "" {
		t.Skip("CLIENT_REDIS_URL is not set: no Redis to use")
	}
	database := cmp.Or(strings.Trim(address.Path, "/"), "0")
	return Redis(func(ctx context.Context, command ...any) (any, error) {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address.Host)
		if err != nil {
			return nil, err
		}
		defer connection.Close()
		replies := bufio.NewReader(connection)
		for _, words := range [][]any{{"SELECT", database}, command} {
			fmt.Fprintf(connection, "*%d\r\n", len(words))
			for _, word := range words {
				text := fmt.Sprint(word)
				fmt.Fprintf(connection, "$%d\r\n%s\r\n", len(text), text)
			}
			if words[0] == "SELECT" {
				if _, err := reply(replies); err != nil {
					return nil, err
				}
			}
		}
		return reply(replies)
	})
}

// reply reads one reply of Redis's protocol.
func reply(from *bufio.Reader) (any, error) {
	line, err := from.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSpace(line)
	count, _ := strconv.Atoi(line[1:])
	switch {
	case line[0] == '-':
		return nil, errors.New(line[1:])
	case line[0] == '+' || line[0] == ':':
		return line[1:], nil
	case count < 0:
		return nil, nil
	case line[0] == '$':
		text := make([]byte, count+2)
		_, err := io.ReadFull(from, text)
		return text[:count], err
	}
	list := make([]any, count)
	for index := range list {
		if list[index], err = reply(from); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func TestLiveServicesShareValuesInRedis(t *testing.T) {
	base, kept, ctx, who := liveURL(t), commands(t), context.Background(), Who{UserID: "shared-go"}
	value := func() string {
		values, err := kept.Get(ctx, redisKey("production", "on", "shared-go"))
		if err != nil {
			t.Fatal(err)
		}
		return values[0]
	}
	writes := newClient(t, base, Options{Environment: "production", Redis: kept})
	within(t, func() bool { return writes.IsEnabled(ctx, "on", who, false) && value() != "" })
	var written redisValue
	if err := json.Unmarshal([]byte(value()), &written); err != nil || !*written.Enabled || written.CachedAt == "" {
		t.Error(value(), err)
	}
	// Another process, with a service that is not there: what Redis has is served.
	reads := newClient(t, "http://127.0.0.1:1", Options{Environment: "production", Redis: kept, Cache: true, MaxRetries: -1, OnError: func(error) {}})
	within(t, func() bool { return reads.IsEnabled(ctx, "on", who, false) })
	if !reads.BatchEvaluate(ctx, []string{"on"}, who, false)["on"] {
		t.Error("not in the batch")
	}
	who.Context = map[string]any{"plan": "gold"}
	if reads.IsEnabled(ctx, "on", who, false) {
		t.Error("a context is not in Redis")
	}
}

func TestLiveAnOlderValueDoesNotReplaceANewerOne(t *testing.T) {
	kept, ctx := commands(t), context.Background()
	for _, version := range []uint64{5, 7, 6} {
		if err := kept.SetIfNewer(ctx, "ff_eval:test:newer-go:u", version, time.Minute, fmt.Sprintf(`{"basis_version":%d}`, version)); err != nil {
			t.Fatal(err)
		}
	}
	values, err := kept.Get(ctx, "ff_eval:test:newer-go:u", "ff_eval:test:missing-go:u")
	if err != nil || !slices.Equal(values, []string{`{"basis_version":7}`, ""}) {
		t.Error(values, err)
	}
}

func TestLiveVariantsExposuresAndConversionsBecomeResults(t *testing.T) {
	base, ctx, name := liveURL(t), context.Background(), "go-experiment"
	body := `{"name":"go-experiment","environment":"production","control":"light","metrics":[{"name":"purchase"},{"name":"revenue","kind":"mean"}]}`
	started, err := http.Post(base+"/api/v1/experiments", "application/json", strings.NewReader(body))
	if err != nil || (started.StatusCode != http.StatusCreated && started.StatusCode != http.StatusConflict) {
		t.Fatal(started, err)
	}
	started.Body.Close()
	client := newClient(t, base, Options{Environment: "production"})
	ann, value := Who{UserID: "ann"}, 12.5
	if variant := client.GetVariant(ctx, name, ann, "none"); variant != "dark" && variant != "light" {
		t.Error(variant)
	}
	conversion := Conversion{Experiment: name, Metric: "purchase", EventID: "order-1", Metadata: map[string]any{"plan": "gold"}}
	err = errors.Join(client.TrackExposure(ctx, name, ann), client.TrackExposure(ctx, name, Who{UserID: "bob"}),
		client.TrackConversion(ctx, conversion, ann), client.TrackConversion(ctx, conversion, ann),
		client.TrackConversion(ctx, Conversion{Experiment: name, Metric: "purchase", EventID: "order-2"}, Who{UserID: "bob"}),
		client.TrackEvent(ctx, Event{Metric: "revenue", Value: &value, Metadata: map[string]any{"plan": "gold"}}, ann))
	if err != nil {
		t.Fatal(err)
	}
	within(t, func() bool {
		answer, err := http.Get(base + "/api/v1/experiments/" + name + "/results?environment=production")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var results struct {
			Conversions struct {
				Attributed int `json:"attributed"`
			} `json:"conversions"`
		}
		// 503 until they were computed for the first time.
		return json.NewDecoder(answer.Body).Decode(&results) == nil && results.Conversions.Attributed >= 3
	})
}
