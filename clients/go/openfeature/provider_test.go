package openfeature_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	sdk "github.com/open-feature/go-sdk/openfeature"

	"flagstream.dev/clients/go/flagstream"
	"flagstream.dev/clients/go/openfeature"
)

const soon = 30 * time.Second

// service gives prepared answers, one by one, and remembers the bodies of requests.
type service struct {
	*httptest.Server
	mutex   sync.Mutex
	answers []string
	bodies  []map[string]any
}

func newService(t *testing.T, answers ...string) *service {
	s := &service{answers: answers}
	s.Server = httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		var body map[string]any
		_ = json.NewDecoder(request.Body).Decode(&body)
		s.bodies = append(s.bodies, body)
		if len(s.answers) == 0 || s.answers[0] == "" {
			writer.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(writer, `{"flag_name":"f","enabled":true,"reason":"TARGETING_MATCH","flag_version":9,"environment":"production","flags_version":10,%s}`, s.answers[0])
		s.answers = s.answers[1:]
	}))
	t.Cleanup(s.Close)
	return s
}

// client registers a provider under the test's name.
func client(t *testing.T, flags flagstream.Flags) *sdk.Client {
	t.Helper()
	if err := sdk.SetNamedProviderAndWait(t.Name(), openfeature.New(flags)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(flags.Close)
	return sdk.NewClient(t.Name())
}

func overHTTP(t *testing.T, url string, options flagstream.Options) flagstream.Flags {
	t.Helper()
	options.MaxRetries, options.OnWarning = -1, func(flagstream.Evaluation) {}
	flags, err := flagstream.New(url, options)
	if err != nil {
		t.Fatal(err)
	}
	return flags
}

func TestTheTypeTheUserAndTheContextAreSent(t *testing.T) {
	server := newService(t, `"value":5,"variant":"five"`, `"value":0.5`, `"value":true`, `"value":"dark"`, `"value":{"a":[1]}`)
	client, ctx := client(t, overHTTP(t, server.URL, flagstream.Options{})), context.Background()
	user := sdk.NewEvaluationContext("u", map[string]any{"tier": "premium"})
	details, err := client.IntValueDetails(ctx, "f", 3, user)
	if err != nil || details.Value != 5 || details.Variant != "five" || details.Reason != sdk.TargetingMatchReason {
		t.Error(details, err)
	}
	if version, err := details.FlagMetadata.GetInt("version"); err != nil || version != 9 {
		t.Error(details.FlagMetadata)
	}
	float, _ := client.FloatValue(ctx, "f", 1.5, user)
	boolean, _ := client.BooleanValue(ctx, "f", false, sdk.EvaluationContext{})
	text, _ := client.StringValue(ctx, "f", "light", user)
	object, _ := client.ObjectValue(ctx, "f", nil, user)
	if said := []any{float, boolean, text, object}; !reflect.DeepEqual(said, []any{0.5, true, "dark", map[string]any{"a": []any{1.0}}}) {
		t.Error(said)
	}
	var types []any
	for _, body := range server.bodies {
		types = append(types, body["value_type"])
	}
	if !slices.Equal(types, []any{"integer", "float", "boolean", "string", "object"}) {
		t.Error(types)
	}
	first, third := server.bodies[0], server.bodies[2]
	if first["user_id"] != "u" || first["default_value"] != 3.0 || !reflect.DeepEqual(first["context"], map[string]any{"tier": "premium"}) {
		t.Error(first)
	}
	if third["user_id"] != nil || third["context"] != nil {
		t.Error(third)
	}
}

func TestFailuresAreTheDefaultWithACode(t *testing.T) {
	for _, row := range []struct {
		answer string
		code   sdk.ErrorCode
	}{
		{"", sdk.GeneralCode},
		{`"value":"text"`, sdk.TypeMismatchCode},
		{`"value":5.5`, sdk.TypeMismatchCode},
		{`"value":3,"error_code":"FLAG_NOT_FOUND"`, sdk.FlagNotFoundCode},
		{`"value":3,"error_code":"PROVIDER_NOT_READY"`, sdk.ProviderNotReadyCode},
		{`"value":3,"error_code":"SOMETHING_NEW"`, sdk.GeneralCode},
	} {
		server := newService(t, row.answer)
		details, err := client(t, overHTTP(t, server.URL, flagstream.Options{})).IntValueDetails(context.Background(), "f", 3, sdk.EvaluationContext{})
		if err == nil || details.Value != 3 || details.ErrorCode != row.code || details.Reason != sdk.ErrorReason {
			t.Error(row, details, err)
		}
	}
}

func TestACachedAnswerIsCalledSo(t *testing.T) {
	server := newService(t, `"value":true`)
	client := client(t, overHTTP(t, server.URL, flagstream.Options{Cache: true}))
	for _, reason := range []sdk.Reason{sdk.TargetingMatchReason, sdk.CachedReason} {
		if details, err := client.BooleanValueDetails(context.Background(), "f", false, sdk.EvaluationContext{}); err != nil || details.Reason != reason {
			t.Error(details, err)
		}
	}
}

func TestChangesAndTheirAbsenceAreEvents(t *testing.T) {
	mock := flagstream.NewMock(map[string]any{"f": true})
	client := client(t, mock)
	events := make(chan string, 10)
	listen := func(event sdk.EventType) {
		callback := func(details sdk.EventDetails) {
			// The SDK itself reports at once that a provider is ready.
			if event != sdk.ProviderReady || details.Message == "changes arrive" {
				events <- fmt.Sprint(event, details.FlagChanges)
			}
		}
		client.AddHandler(event, &callback)
	}
	listen(sdk.ProviderConfigChange)
	listen(sdk.ProviderStale)
	listen(sdk.ProviderReady)
	next := func() string {
		select {
		case event := <-events:
			return event
		case <-time.After(soon):
			return "nothing"
		}
	}
	mock.Set("f", false)
	if event := next(); event != "PROVIDER_CONFIGURATION_CHANGED[f]" {
		t.Error(event)
	}
	mock.SetFollowing(false)
	if event := next(); event != "PROVIDER_STALE[]" {
		t.Error(event)
	}
	mock.SetFollowing(true)
	if event := next(); event != "PROVIDER_READY[]" {
		t.Error(event)
	}
}

func TestTrackingEventsAreConversions(t *testing.T) {
	mock := flagstream.NewMock(nil)
	client, ctx, user := client(t, mock), context.Background(), sdk.NewEvaluationContext("u", nil)
	client.Track(ctx, "purchase", user, sdk.NewTrackingEventDetails(12.5))
	client.Track(ctx, "purchase", user, sdk.NewTrackingEventDetails(0).Add("experiment", "checkout").Add("eventId", "order-77"))
	details := sdk.NewTrackingEventDetails(0).Add("plan", "gold").Add("cart", []int{1}).Add("occurredAt", "today")
	client.Track(ctx, "purchase", user, details)
	client.Track(ctx, "purchase", user, details.Add("experiment", "checkout"))
	tracked := mock.Tracked()
	if len(tracked) != 4 || *tracked[0].Conversion.Value != 12.5 || tracked[0].Conversion.Experiment != "" || tracked[0].Who.UserID != "u" {
		t.Fatal(tracked)
	}
	if expected := (flagstream.Conversion{Experiment: "checkout", Metric: "purchase", EventID: "order-77"}); !reflect.DeepEqual(tracked[1].Conversion, expected) {
		t.Error(tracked[1])
	}
	metadata := map[string]any{"plan": "gold", "cart": []int{1}}
	for index, experiment := range []string{"", "checkout"} {
		expected := flagstream.Conversion{Experiment: experiment, Metric: "purchase", Metadata: metadata}
		if conversion := tracked[2+index].Conversion; !reflect.DeepEqual(conversion, expected) {
			t.Error(conversion)
		}
	}
}

func Example() {
	flags := flagstream.NewMock(map[string]any{"max-retries": 5}) // a *flagstream.Client
	if err := sdk.SetProviderAndWait(openfeature.New(flags)); err != nil {
		fmt.Println(err)
		return
	}
	defer sdk.Shutdown()
	retries, err := sdk.NewClient("shop").IntValue(context.Background(), "max-retries", 3, sdk.NewEvaluationContext("user-456", nil))
	fmt.Println(retries, err)
	// Output: 5 <nil>
}
