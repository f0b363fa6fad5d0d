package flagstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

const soon = 30 * time.Second

func TestACancelledAttemptLetsTheNextOneTry(t *testing.T) {
	server := newScripted(t, readVectors(t).Answer, []object{{"status": 500.0}, {"hang": true}, {}})
	client := newClient(t, server.URL, Options{FailureThreshold: 1, MaxRetries: -1, RecoveryTimeout: 1, OnError: func(error) {}})
	ctx, cancel := context.WithCancel(context.Background())
	_, err := client.Evaluate(ctx, "f", Who{}, One{})
	checkError(t, object{"kind": "unavailable"}, err)
	probed := make(chan error)
	go func() {
		_, err := client.Evaluate(ctx, "f", Who{}, One{})
		probed <- err
	}()
	within(t, func() bool { return len(server.seen()) == 2 })
	_, err = client.Evaluate(context.Background(), "f", Who{}, One{})
	checkError(t, object{"kind": "circuit_open"}, err)
	cancel()
	if err := <-probed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if !client.IsEnabled(context.Background(), "f", Who{}, false) {
		t.Error("the next one was not let through")
	}
}

func TestErrorsThatTheServiceAnswersAreWarnedOfOnce(t *testing.T) {
	failed := func(code string) object {
		return object{"body": object{"reason": "ERROR", "error_code": code, "error_message": "not served", "environment": "e"}}
	}
	answers := []object{failed("PROVIDER_NOT_READY"), failed("PROVIDER_NOT_READY"), failed("TYPE_MISMATCH"), {}}
	server := newScripted(t, readVectors(t).Answer, answers)
	var warned []Evaluation
	client := newClient(t, server.URL, Options{OnWarning: func(e Evaluation) { warned = append(warned, e) }})
	for range answers {
		client.IsEnabled(context.Background(), "f", Who{}, false)
	}
	if len(warned) != 2 || warned[0].ErrorCode != "PROVIDER_NOT_READY" || warned[1].ErrorCode != "TYPE_MISMATCH" {
		t.Error(warned)
	}
}

func TestValueTakesAMock(t *testing.T) {
	var flags Flags = NewMock(map[string]any{"max-retries": 5})
	if said := Value(context.Background(), flags, "max-retries", Who{UserID: "u"}, 3); said != 5 {
		t.Error(said)
	}
	if said := Value(context.Background(), flags, "unknown", Who{}, "light"); said != "light" {
		t.Error(said)
	}
}

func TestGoroutinesShareAClientAndItsConnections(t *testing.T) {
	answers := make([]object, 400)
	for index := range answers {
		answers[index] = object{}
	}
	server := newScripted(t, readVectors(t).Answer, answers)
	client := newClient(t, server.URL, Options{Cache: true, CacheMaxEntries: 10})
	var all sync.WaitGroup
	for worker := range 8 {
		all.Add(1)
		go func() {
			defer all.Done()
			for number := range 50 {
				client.Invalidate(uint64(number%10), "")
				if !client.IsEnabled(context.Background(), "f", Who{UserID: fmt.Sprint((worker + number) % 20)}, false) {
					t.Error("no answer")
				}
			}
		}()
	}
	all.Wait()
	connections := map[any]bool{}
	for _, request := range server.seen() {
		connections[request["from"]] = true
	}
	// Some more than there are goroutines: Go dials beside waiting for one that is in use, and keeps both.
	if len(connections) > 40 || len(server.seen()) < 50 {
		t.Errorf("%d connections for %d requests", len(connections), len(server.seen()))
	}
}

func TestClosingEndsWhatIsUnderWay(t *testing.T) {
	server := newScripted(t, nil, []object{{"hang": true}})
	client := newClient(t, server.URL, Options{OnError: func(error) {}})
	said := make(chan string)
	go func() { said <- Value(context.Background(), client, "f", Who{}, "light") }()
	client.Close()
	if value := <-said; value != "light" || !client.IsEnabled(context.Background(), "f", Who{}, true) {
		t.Error(value)
	}
}

func TestWhatIsNotJSONIsNotSent(t *testing.T) {
	var told []error
	client := newClient(t, "http://127.0.0.1:1", Options{OnError: func(err error) { told = append(told, err) }})
	who := Who{Context: map[string]any{"nan": math.NaN()}}
	_, err := client.Evaluate(context.Background(), "f", who, One{})
	checkError(t, object{"kind": "invalid_request", "status": 0.0}, err)
	said := client.BulkEvaluateFlags(context.Background(), []string{"f"}, who, Many{Defaults: object{"f": 1}})
	contains(t, object{"f": object{"value": 1.0, "reason": "ERROR"}}, said)
	if len(told) != 1 {
		t.Error(told)
	}
}

func TestWrongOptionsAreNamed(t *testing.T) {
	if _, err := New("flagstream:8082", Options{}); err == nil {
		t.Error("no scheme")
	}
	if _, err := New("http://x", Options{Timeout: -1}); err == nil {
		t.Error("a negative time")
	}
}

func TestTheMockSaysWhatItWasTold(t *testing.T) {
	ctx, mock := context.Background(), NewMock(map[string]any{"new_ui": true, "theme": "dark"})
	if !mock.IsEnabled(ctx, "new_ui", Who{}, false) || !mock.IsEnabled(ctx, "unknown", Who{}, true) {
		t.Error("booleans")
	}
	if mock.EvaluateFlag(ctx, "theme", Who{}, One{Default: "light"}) != "dark" {
		t.Error("text")
	}
	mock.Set("new_ui", false)
	contains(t, object{"new_ui": false, "other": true}, mock.BatchEvaluate(ctx, []string{"new_ui", "other"}, Who{}, true))
}

func TestTheStreamOfChangesIsRead(t *testing.T) {
	cache := newAnnouncements()
	var received []FlagChange
	heard := &changes{begins: cache.begin, changed: func(change FlagChange) {
		cache.add(change)
		received = append(received, change)
	}}
	feed := func(text string) {
		for _, line := range bytes.Split([]byte(text), []byte("\n")) {
			heard.line(line)
		}
	}
	feed("retry: 1000\nid: 5\n\n: heartbeat\n\nid: 7\ndata: {\"version\":7,\"environment\":\"p\"}\n\n")
	if cache.newest() != 7 || heard.lastID != "7" {
		t.Error(cache.newest(), heard.lastID)
	}
	feed("id: 9\ndata: {\"event_type\":\"RESET\",\"version\":9}\n\nid: 10\ndata: what")
	if cache.newest() != 9 || heard.lastID != "9" {
		t.Error(cache.newest(), heard.lastID)
	}
	if expected := []FlagChange{{"RESET", "", "p", 7}, {"RESET", "", "", 9}}; !slices.Equal(received, expected) {
		t.Error(received)
	}
	heard.restart()
	feed("id: 11\n\n")
	if heard.lastID != "11" {
		t.Error("half an event of a broken connection is forgotten")
	}
}

func TestAKilledFlagIsOffAtOnce(t *testing.T) {
	base, flag, ctx := liveURL(t), "killed-in-go", context.Background()
	client := newClient(t, base, Options{Environment: "production", FollowChanges: true})
	turn := func(action string) (turned struct{ Version uint64 }) {
		address := base + "/api/v1/feature-flags/" + url.PathEscape(flag) + "/" + action + "?environment=production"
		answer, err := http.Post(address, "application/json", bytes.NewBufferString(`{"reason": "a test"}`))
		if err == nil {
			defer answer.Body.Close()
			err = json.NewDecoder(answer.Body).Decode(&turned)
		}
		if err != nil || turned.Version == 0 {
			t.Fatal(answer, err)
		}
		return turned
	}
	is := func(wanted bool) func() bool {
		return func() bool { return client.IsEnabled(ctx, flag, Who{UserID: "u"}, false) == wanted }
	}
	waiting, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	if err := client.WaitUntilFollowing(waiting); err != nil || !client.IsFollowing() {
		t.Fatal(err)
	}
	within(t, is(true))
	version := turn("kill").Version
	within(t, is(false))
	killed, err := client.Evaluate(ctx, flag, Who{UserID: "u"}, One{Default: false})
	if err != nil || killed.Reason != "DISABLED" || killed.FlagsVersion < version {
		t.Error(killed, err)
	}
	restored := turn("restore").Version
	within(t, is(true))
	if _, err := client.Evaluate(ctx, flag, Who{UserID: "u"}, One{Default: false, MinVersion: restored}); err != nil {
		t.Error(err)
	}
}

func within(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(soon); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time")
		}
	}
}
