package flagstream

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestReportsAreSentAsTheServiceReadsThem(t *testing.T) {
	answers := []object{{"body": object{"variant": "dark"}}, {}, {}, {}, {}, {}, {}, {"status": 422.0}}
	server := newScripted(t, readVectors(t).Answer, answers)
	client := newClient(t, server.URL, Options{Environment: "production", MaxRetries: -1, Cache: true})
	ctx, ann := context.Background(), Who{UserID: "ann"}
	if variant := client.GetVariant(ctx, "checkout", ann, "classic"); variant != "dark" {
		t.Error(variant)
	}
	if variant := client.GetVariant(ctx, "other", ann, "classic"); variant != "classic" {
		t.Error(variant)
	}
	at := time.Date(2026, 1, 15, 10, 42, 0, 0, time.UTC)
	conversion := Conversion{Experiment: "a/b", Metric: "purchase", EventID: "order-77", OccurredAt: at}.WithValue(12.5)
	rich, value := conversion, 2.0
	rich.Metadata = map[string]any{"plan": "gold", "cart": map[string]any{"items": []int{1}}, "coupon": nil}
	event := Event{Metric: "revenue", EventID: "order-77", Metadata: map[string]any{"plan": "gold"}}
	err := errors.Join(client.TrackExposure(ctx, "checkout", ann), client.TrackConversion(ctx, conversion, ann), client.Track(ctx, "revenue", ann, &value),
		client.TrackConversion(ctx, rich, ann), client.TrackEvent(ctx, event.WithValue(2), ann))
	if err != nil {
		t.Error(err)
	}
	if variant := client.GetVariant(ctx, "unreachable", ann, "classic"); variant != "classic" {
		t.Error(variant)
	}
	checkError(t, object{"kind": "invalid_request"}, client.TrackConversion(ctx, conversion, Who{}))
	rich.Metadata = map[string]any{"total": math.NaN()}
	checkError(t, object{"kind": "invalid_request"}, client.TrackConversion(ctx, rich, ann))
	event.Metadata = map[string]any{"experiment": "e"}
	checkError(t, object{"kind": "invalid_request"}, client.TrackEvent(ctx, event, ann))
	checkRequests(t, []object{
		{"body": object{"flag_name": "checkout", "value_type": "string", "user_id": "ann"}},
		{},
		{"path": "/api/v1/feature-flags/evaluate", "body": object{"flag_name": "checkout"}},
		{"path": "/api/v1/experiments/a%2Fb/conversions?environment=production", "whole_body": object{"user_id": "ann", "metric": "purchase", "value": 12.5,
			"occurred_at": "2026-01-15T10:42:00.000000Z", "event_id": "order-77"}},
		{"path": "/ofrep/v1/track?environment=production", "body": object{"trackingEventName": "revenue", "context": object{"targetingKey": "ann"}}},
		{"whole_body": object{"user_id": "ann", "metric": "purchase", "value": 12.5, "occurred_at": "2026-01-15T10:42:00.000000Z", "event_id": "order-77",
			"metadata": object{"plan": "gold", "cart": object{"items": []any{1.0}}, "coupon": nil}}},
		{"body": object{"trackingEventDetails": object{"value": 2.0, "eventId": "order-77", "plan": "gold"}}},
		{},
	}, server.seen())
}

func TestTheMockHasEveryMethodOfTheClient(t *testing.T) {
	mock, flags := reflect.TypeOf(&Mock{}), reflect.TypeOf((*Flags)(nil)).Elem()
	client := reflect.TypeOf(&Client{})
	for index := range client.NumMethod() {
		method := client.Method(index)
		other, found := mock.MethodByName(method.Name)
		declared, isDeclared := flags.MethodByName(method.Name)
		if !found || !isDeclared || other.Type.NumIn() != method.Type.NumIn() || declared.Type.NumOut() != method.Type.NumOut() {
			t.Errorf("%s: mock %v, interface %v", method.Name, found, isDeclared)
		}
	}
}

func TestTheMockRemembersAndReports(t *testing.T) {
	mock, ctx, ann := NewMock(nil), context.Background(), Who{UserID: "ann"}
	var changes []string
	stop := mock.OnChange(func(change FlagChange) { changes = append(changes, change.Type+" "+change.FlagName) })
	mock.OnChange(func(FlagChange) { panic("a listener that fails disturbs no other") })
	var following []bool
	mock.OnFollowing(func(is bool) { following = append(following, is) })
	mock.SetVariant("checkout", "one-page")
	mock.Remove("checkout")
	mock.Invalidate(7, "")
	stop()
	mock.Set("f", true)
	mock.SetFollowing(false)
	if !slices.Equal(changes, []string{"FEATURE_FLAG_UPDATED checkout", "FEATURE_FLAG_DELETED checkout", "RESET "}) || !slices.Equal(following, []bool{false}) {
		t.Error(changes, following)
	}
	mock.IsEnabled(ctx, "f", ann, false)
	_ = mock.TrackExposure(ctx, "f", ann)
	metadata := map[string]any{"plan": "gold"}
	_ = mock.TrackConversion(ctx, Conversion{Experiment: "e", Metric: "purchase", Metadata: metadata}, ann)
	_ = mock.TrackEvent(ctx, Event{Metric: "view", Metadata: metadata}, ann)
	_ = mock.Track(ctx, "view", ann, nil)
	if err := mock.TrackEvent(ctx, Event{Metric: "view", Metadata: map[string]any{"value": 1}}, ann); err == nil {
		t.Error("metadata with a member of the event")
	}
	if err := mock.TrackConversion(ctx, Conversion{}, Who{}); err == nil {
		t.Error("a conversion without a user")
	}
	if asked := mock.Asked(); len(asked) != 1 || asked[0].Flag != "f" || asked[0].Who.UserID != "ann" {
		t.Error(asked)
	}
	if tracked := mock.Tracked(); len(tracked) != 4 || tracked[0].Flag != "f" || tracked[1].Conversion.Metric != "purchase" ||
		!reflect.DeepEqual(tracked[1].Conversion.Metadata, metadata) || !reflect.DeepEqual(tracked[2].Conversion, Conversion{Metric: "view", Metadata: metadata}) ||
		!reflect.DeepEqual(tracked[3].Conversion, Conversion{Metric: "view"}) {
		t.Error(tracked)
	}
}

func TestAChangeReachesListenersAndTheCache(t *testing.T) {
	server := newScripted(t, readVectors(t).Answer, []object{{}, {"body": object{"flags_version": 11}}})
	client := newClient(t, server.URL, Options{Cache: true})
	var received []FlagChange
	client.OnChange(func(change FlagChange) { received = append(received, change) })
	ctx := context.Background()
	client.IsEnabled(ctx, "f", Who{}, false)
	if client.ApplyInvalidation([]byte("{}")) || client.ApplyInvalidation([]byte("no")) {
		t.Error("no change was understood")
	}
	if !client.ApplyInvalidation([]byte(`{"event_type":"FEATURE_FLAG_UPDATED","flag_name":"f","environment":"production","version":11,"actor":null}`)) {
		t.Error("not understood")
	}
	if answer, err := client.Evaluate(ctx, "f", Who{}, One{Default: false}); err != nil || answer.Cached || answer.FlagsVersion != 11 {
		t.Error(answer, err)
	}
	if !slices.Equal(received, []FlagChange{{"FEATURE_FLAG_UPDATED", "f", "production", 11}}) {
		t.Error(received)
	}
}

func TestEnvironmentVariablesAreTheDefaults(t *testing.T) {
	server := newScripted(t, readVectors(t).Answer, []object{{}, {}})
	t.Setenv("CONFIG_SERVICE_URL", server.URL)
	t.Setenv("ENVIRONMENT", "staging")
	newClient(t, "", Options{}).IsEnabled(context.Background(), "f", Who{}, false)
	newClient(t, "", Options{Environment: "production"}).IsEnabled(context.Background(), "f", Who{}, false)
	checkRequests(t, []object{{"body": object{"environment": "staging"}}, {"body": object{"environment": "production"}}}, server.seen())
	t.Setenv("CONFIG_SERVICE_URL", "")
	if _, err := New("", Options{}); err == nil {
		t.Error("no address")
	}
}

func TestEventsCarryTheTraceOfTheCall(t *testing.T) {
	type key struct{}
	server := newScripted(t, readVectors(t).Answer, []object{{}, {}})
	client := newClient(t, server.URL, Options{Traceparent: func(ctx context.Context) string {
		trace, _ := ctx.Value(key{}).(string)
		return trace
	}})
	client.IsEnabled(context.WithValue(context.Background(), key{}, "00-trace"), "f", Who{}, false)
	client.IsEnabled(context.Background(), "f", Who{}, false)
	checkRequests(t, []object{{"headers": object{"traceparent": "00-trace"}}, {"without": []any{"traceparent"}}}, server.seen())
}

func TestTheMiddlewareEvaluatesForTheUserOfTheRequest(t *testing.T) {
	mock := NewMock(map[string]any{"f": true})
	mock.SetVariant("checkout", "one-page")
	handler := http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		ctx := request.Context()
		flags := FromContext(ctx)
		if !flags.IsEnabled(ctx, "f", false) || flags.EvaluateFlag(ctx, "f", One{}) != true || !flags.BatchEvaluate(ctx, []string{"f"}, false)["f"] {
			t.Error("the flag is off")
		}
		if flags.GetVariant(ctx, "checkout", "classic") != "one-page" || flags.TrackExposure(ctx, "checkout") != nil || flags.TrackConversion(ctx, Conversion{Metric: "m"}) != nil {
			t.Error("the experiment")
		}
	})
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	request.RemoteAddr = "192.0.2.7:1234"
	request.Header.Set("User-Agent", "test/1")
	request.AddCookie(&http.Cookie{Name: "sid", Value: "s-1"})
	user := func(*http.Request) string { return "ann" }
	session := func(request *http.Request) string {
		cookie, err := request.Cookie("sid")
		if err != nil {
			return ""
		}
		return cookie.Value
	}
	Middleware(mock, RequestOptions{User: user, Session: session})(handler).ServeHTTP(httptest.NewRecorder(), request)
	expected := Who{UserID: "ann", SessionID: "s-1", Context: map[string]any{"remoteAddress": "192.0.2.7", "userAgent": "test/1"}}
	for _, asked := range mock.Asked() {
		if !reflect.DeepEqual(asked.Who, expected) {
			t.Error(asked)
		}
	}
	for _, tracked := range mock.Tracked() {
		if !reflect.DeepEqual(tracked.Who, expected) {
			t.Error(tracked)
		}
	}
	own := NewMock(map[string]any{"f": true, "checkout": true})
	own.SetVariant("checkout", "one-page")
	Middleware(own, RequestOptions{Resolve: func(*http.Request) Who { return Who{UserID: "bob"} }})(handler).ServeHTTP(httptest.NewRecorder(), request)
	if asked := own.Asked(); len(asked) != 4 || asked[0].Who.UserID != "bob" {
		t.Error(asked)
	}
	if FromContext(context.Background()) != nil {
		t.Error("flags without the middleware")
	}
}
