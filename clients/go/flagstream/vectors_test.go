package flagstream

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

type object = map[string]any

// The table that the clients of all languages share.
type vectors struct {
	Live     []object `json:"live"`
	Answer   object   `json:"answer"`
	Scripted []struct {
		Name     string   `json:"name"`
		Options  object   `json:"options"`
		Answers  []object `json:"answers"`
		Steps    []object `json:"steps"`
		Requests []object `json:"requests"`
	} `json:"scripted"`
	Redis []struct {
		Name    string       `json:"name"`
		Value   string       `json:"value"`
		Minimum string       `json:"minimum"`
		Changes []FlagChange `json:"changes"`
		IsUsed  bool         `json:"is_used"`
	} `json:"redis"`
}

func readVectors(t *testing.T) (read vectors) {
	t.Helper()
	text, err := os.ReadFile("../../vectors.json")
	if err == nil {
		err = json.Unmarshal(text, &read)
	}
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// A server that gives prepared answers, one by one, and remembers what it was asked.
type scripted struct {
	*httptest.Server
	mutex    sync.Mutex
	answer   object
	answers  []object
	requests []object
}

func newScripted(t *testing.T, answer object, answers []object) *scripted {
	s := &scripted{answer: answer, answers: answers}
	ended := make(chan struct{})
	s.Server = httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		s.serve(writer, request, ended)
	}))
	t.Cleanup(func() {
		close(ended)
		s.Close()
	})
	return s
}

func (s *scripted) serve(writer http.ResponseWriter, request *http.Request, ended chan struct{}) {
	var body any
	text, _ := io.ReadAll(request.Body)
	_ = json.Unmarshal(text, &body)
	headers := object{}
	for name := range request.Header {
		headers[strings.ToLower(name)] = request.Header.Get(name)
	}
	s.mutex.Lock()
	s.requests = append(s.requests, object{"method": request.Method, "path": request.URL.RequestURI(), "headers": headers, "body": body, "from": request.RemoteAddr})
	next := object{"status": 418.0}
	if len(s.answers) > 0 {
		next, s.answers = s.answers[0], s.answers[1:]
	}
	s.mutex.Unlock()
	if next["hang"] == true {
		select {
		case <-ended:
		case <-request.Context().Done():
		}
	}
	if next["hang"] == true || next["drop"] == true {
		panic(http.ErrAbortHandler)
	}
	status, _ := next["status"].(float64)
	for name, value := range get[object](next, "headers") {
		writer.Header().Set(name, value.(string))
	}
	if status != 0 && status != 200 {
		writer.WriteHeader(int(status))
		_ = json.NewEncoder(writer).Encode(get[object](next, "problem"))
		return
	}
	if given, isText := next["text"].(string); isText {
		_, _ = io.WriteString(writer, given)
		return
	}
	answer := object{}
	for _, members := range []object{s.answer, get[object](next, "body")} {
		for name, value := range members {
			answer[name] = value
		}
	}
	_ = json.NewEncoder(writer).Encode(answer)
}

func (s *scripted) seen() []object {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return slices.Clone(s.requests)
}

func get[T any](members object, name string) T {
	value, _ := members[name].(T)
	return value
}

func seconds(members object, name string) time.Duration {
	return time.Duration(get[float64](members, name) * float64(time.Second))
}

func options(given object) Options {
	options := Options{
		Environment: get[string](given, "environment"), Token: get[string](given, "token"),
		Timeout: seconds(given, "timeout_s"), AttemptTimeout: seconds(given, "attempt_timeout_s"),
		MaxRetries: int(get[float64](given, "max_retries")), BackoffBase: time.Millisecond,
		FailureThreshold: int(get[float64](given, "failure_threshold")), RecoveryTimeout: seconds(given, "recovery_timeout_s"),
		Cache: get[bool](given, "cache"), CacheTTL: seconds(given, "cache_ttl_s"), CacheMaxEntries: int(get[float64](given, "cache_max_entries")),
		OnError: func(error) {},
	}
	if given["max_retries"] == 0.0 {
		options.MaxRetries = -1
	}
	return options
}

func call(client *Client, step object) (any, error) {
	ctx := context.Background()
	who := Who{UserID: get[string](step, "user_id"), SessionID: get[string](step, "session_id"), Environment: get[string](step, "environment"), Context: get[object](step, "context")}
	flag, one := get[string](step, "flag"), One{Default: step["default"], ValueType: get[string](step, "value_type"), MinVersion: uint64(get[float64](step, "min_version"))}
	var flags []string
	for _, name := range get[[]any](step, "flags") {
		flags = append(flags, name.(string))
	}
	switch step["call"] {
	case "is_enabled":
		return client.IsEnabled(ctx, flag, who, step["default"].(bool)), nil
	case "evaluate_flag":
		return client.EvaluateFlag(ctx, flag, who, one), nil
	case "batch_evaluate":
		return client.BatchEvaluate(ctx, flags, who, step["default"].(bool)), nil
	case "bulk_evaluate_flags":
		return client.BulkEvaluateFlags(ctx, flags, who, Many{Defaults: get[object](step, "default_values")}), nil
	case "evaluate":
		return client.Evaluate(ctx, flag, who, one)
	case "track_conversion":
		conversion, err := conversion(step)
		return err == nil && client.TrackConversion(ctx, conversion, who) == nil, err
	case "track":
		event := Event{Metric: get[string](step, "metric"), Metadata: get[object](step, "metadata")}
		return client.TrackEvent(ctx, event, who) == nil, nil
	}
	return nil, errors.New("no such call")
}

func conversion(step object) (Conversion, error) {
	at, err := time.Parse(time.RFC3339Nano, get[string](step, "occurred_at"))
	conversion := Conversion{Experiment: get[string](step, "experiment"), Metric: get[string](step, "metric"), EventID: get[string](step, "event_id"),
		OccurredAt: at, Metadata: get[object](step, "metadata")}
	if value, isGiven := step["value"].(float64); isGiven {
		conversion = conversion.WithValue(value)
	}
	return conversion, err
}

// contains compares the members that are expected; null is what is empty in Go.
func contains(t *testing.T, expected, said any) {
	t.Helper()
	text, err := json.Marshal(said)
	if err != nil {
		t.Fatal(err)
	}
	var plain any
	_ = json.Unmarshal(text, &plain)
	compare(t, expected, plain)
}

func compare(t *testing.T, expected, said any) {
	t.Helper()
	wanted, isObject := expected.(object)
	members, _ := said.(object)
	if !isObject {
		if expected == nil && (said == "" || said == 0.0) {
			return
		}
		if !reflect.DeepEqual(expected, said) {
			t.Errorf("expected %v, got %v", expected, said)
		}
		return
	}
	for name, value := range wanted {
		if _, found := members[name]; !found {
			t.Errorf("%s is missing in %v", name, said)
		}
		compare(t, value, members[name])
	}
}

func checkError(t *testing.T, expected object, err error) {
	t.Helper()
	var said *Error
	if !errors.As(err, &said) {
		t.Fatalf("not an Error: %v", err)
	}
	fields := []any{}
	for _, field := range said.Fields {
		fields = append(fields, field.Field)
		if field.Message == "" {
			t.Errorf("no message: %v", said)
		}
	}
	compare(t, expected, object{"kind": string(said.Kind), "status": float64(said.Status), "detail": said.Detail, "fields": fields, "retry_after_s": said.RetryAfter.Seconds()})
}

func checkRequests(t *testing.T, expected, seen []object) {
	t.Helper()
	if len(expected) != len(seen) {
		t.Fatalf("expected %d requests, got %v", len(expected), seen)
	}
	for index, wanted := range expected {
		request := seen[index]
		for _, name := range []string{"method", "path", "headers", "body"} {
			if value, named := wanted[name]; named {
				compare(t, value, request[name])
			}
		}
		for _, name := range get[[]any](wanted, "without") {
			if value, there := request["headers"].(object)[name.(string)]; there {
				t.Errorf("%s: %v", name, value)
			}
		}
		if whole, named := wanted["whole_body"]; named && !reflect.DeepEqual(whole, request["body"]) {
			t.Errorf("expected %v, got %v", whole, request["body"])
		}
	}
}

func TestScripted(t *testing.T) {
	all := readVectors(t)
	for _, row := range all.Scripted {
		t.Run(row.Name, func(t *testing.T) {
			server := newScripted(t, all.Answer, row.Answers)
			var ahead time.Duration
			options := options(row.Options)
			options.now = func() time.Time { return time.Now().Add(ahead) }
			client := newClient(t, server.URL, options)
			for _, step := range row.Steps {
				if ahead += seconds(step, "advance_s"); step["advance_s"] != nil {
					continue
				}
				if message, isMessage := step["message"].(string); isMessage {
					if isChange := client.ApplyInvalidation([]byte(message)); isChange != step["is_change"] {
						t.Errorf("%s is a change: %v", message, isChange)
					}
					continue
				}
				if step["clear_cache"] == true {
					client.ClearCache()
					continue
				}
				if told := get[object](step, "invalidate"); told != nil {
					client.Invalidate(uint64(told["version"].(float64)), get[string](told, "environment"))
					continue
				}
				said, err := call(client, step)
				if expected := get[object](step, "error"); expected != nil {
					checkError(t, expected, err)
				} else if err != nil {
					t.Error(err)
				} else {
					contains(t, step["expect"], said)
				}
			}
			checkRequests(t, row.Requests, server.seen())
		})
	}
}

func newClient(t *testing.T, url string, options Options) *Client {
	t.Helper()
	client, err := New(url, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func liveURL(t *testing.T) string {
	url := os.Getenv("FLAGSTREAM_URL")
	if url == "" {
		t.Skip("FLAGSTREAM_URL is not set: no service to ask")
	}
	return url
}

func TestLive(t *testing.T) {
	url := liveURL(t)
	for _, row := range readVectors(t).Live {
		t.Run(get[string](row, "flag")+" for "+get[string](row, "user_id"), func(t *testing.T) {
			client := newClient(t, url, options(object{"environment": "production"}))
			row["call"] = "evaluate"
			said, err := call(client, row)
			expected := get[object](row, "error")
			if expected == nil {
				if err != nil {
					t.Fatal(err)
				}
				contains(t, row["expect"], said)
				return
			}
			checkError(t, expected, err)
			row["call"] = "evaluate_flag"
			said, _ = call(client, row)
			contains(t, row["value"], said)
		})
	}
}

func TestLiveMany(t *testing.T) {
	client := newClient(t, liveURL(t), Options{Environment: "production"})
	ctx, flags := context.Background(), []string{"on", "off", "theme", "unknown"}
	contains(t, object{"on": true, "off": false, "theme": true, "unknown": false}, client.BatchEvaluate(ctx, flags, Who{UserID: "user 1&2"}, false))
	said := client.BulkEvaluateFlags(ctx, flags, Who{UserID: "u"}, Many{Defaults: object{"theme": "light", "unknown": 1}})
	values := []any{}
	for _, flag := range flags {
		values = append(values, said[flag].Any())
	}
	if !slices.Equal(values, []any{true, false, "dark", 1.0}) {
		t.Error(values)
	}
	config := Value(ctx, client, "config", Who{}, struct{ Regions []string }{})
	if !slices.Equal(config.Regions, []string{"us", "eu"}) || Value(ctx, client, "max-retries", Who{}, 3) != 5 {
		t.Error(config)
	}
}
