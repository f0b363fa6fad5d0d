package flagstream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"flagstream.dev/clients/go/flagstream"
)

// A service that answers "dark" to every question about one flag, and refuses a question without a flag.
func service() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var question struct {
			FlagName string `json:"flag_name"`
		}
		if err := json.NewDecoder(r.Body).Decode(&question); err != nil || question.FlagName == "" {
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, `{"detail": "invalid request", "errors": [{"field": "flag_name", "message": "expected a flag"}]}`)
			return
		}
		fmt.Fprintf(w, `{"flag_name": %q, "value": "dark", "enabled": true, "variant": "dark", "reason": "TARGETING_MATCH",
			"flag_version": 3, "environment": "production", "flags_version": 8}`, question.FlagName)
	}))
}

// One client for the whole process, one call per decision.
func Example() {
	server := service()
	defer server.Close()

	flags, err := flagstream.New(server.URL, flagstream.Options{Environment: "production", Token: "fst_…"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer flags.Close()

	who := flagstream.Who{UserID: "user-123", Context: map[string]any{"subscription_tier": "premium"}}
	theme := flagstream.Value(context.Background(), flags, "theme-variant", who, "light")
	fmt.Println(theme)
	// Output: dark
}

// Nothing answers: the default does.
func ExampleClient_IsEnabled() {
	options := flagstream.Options{OnError: func(err error) {
		var failure *flagstream.Error
		fmt.Println(errors.As(err, &failure), failure.Kind)
	}}
	flags, err := flagstream.New("http://127.0.0.1:1", options)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer flags.Close()
	fmt.Println(flags.IsEnabled(context.Background(), "new-ui-enabled", flagstream.Who{UserID: "user-123"}, true))
	// Output:
	// true connection_failed
	// true
}

// Evaluate returns all that the service says of a flag.
func ExampleClient_Evaluate() {
	server := service()
	defer server.Close()
	flags, err := flagstream.New(server.URL, flagstream.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer flags.Close()

	evaluation, err := flags.Evaluate(context.Background(), "theme-variant", flagstream.Who{UserID: "user-123"}, flagstream.One{Default: "light"})
	fmt.Println(evaluation.Any(), evaluation.Variant, evaluation.Reason, evaluation.FlagVersion, err)
	// Output: dark dark TARGETING_MATCH 3 <nil>
}

// An *Error says what kind of failure it is, and which field is wrong.
func ExampleError() {
	server := service()
	defer server.Close()
	flags, err := flagstream.New(server.URL, flagstream.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer flags.Close()

	_, err = flags.Evaluate(context.Background(), "", flagstream.Who{UserID: "user-123"}, flagstream.One{})
	var failure *flagstream.Error
	if errors.As(err, &failure) && failure.Kind == flagstream.InvalidRequest {
		fmt.Println(failure.Status, failure.Fields)
	}
	// Output: 422 [{flag_name expected a flag}]
}

// Any type that encoding/json reads can be the type of a value.
func ExampleValue() {
	type limits struct {
		Requests int `json:"requests"`
	}
	var flags flagstream.Flags = flagstream.NewMock(map[string]any{"limits": map[string]int{"requests": 20}})
	ctx, who := context.Background(), flagstream.Who{UserID: "user-123"}
	fmt.Println(flagstream.Value(ctx, flags, "limits", who, limits{Requests: 10}).Requests)
	fmt.Println(flagstream.Value(ctx, flags, "unknown", who, limits{Requests: 10}).Requests)
	// Output:
	// 20
	// 10
}

// In tests of a service, a Mock answers what the test says.
func ExampleNewMock() {
	greeting := func(ctx context.Context, flags flagstream.Flags, user string) string {
		if flags.IsEnabled(ctx, "new-ui-enabled", flagstream.Who{UserID: user}, false) {
			return "Welcome to the new interface"
		}
		return "Welcome"
	}
	flags := flagstream.NewMock(map[string]any{"new-ui-enabled": true})
	fmt.Println(greeting(context.Background(), flags, "user-123"))
	flags.Set("new-ui-enabled", false)
	fmt.Println(greeting(context.Background(), flags, "user-123"))
	// Output:
	// Welcome to the new interface
	// Welcome
}

// The variant of an experiment, and a conversion.
func ExampleClient_TrackConversion() {
	checkout := func(ctx context.Context, flags flagstream.Flags, user flagstream.Who, total float64) error {
		if flags.GetVariant(ctx, "checkout-test", user, "classic") == "one-page" {
			fmt.Println("one page")
		}
		conversion := flagstream.Conversion{Experiment: "checkout-test", Metric: "purchase", EventID: "order-77"}
		return flags.TrackConversion(ctx, conversion.WithValue(total), user)
	}
	flags := flagstream.NewMock(nil)
	flags.SetVariant("checkout-test", "one-page")
	err := checkout(context.Background(), flags, flagstream.Who{UserID: "user-123"}, 12.5)
	fmt.Println(err, *flags.Tracked()[0].Conversion.Value)
	// Output:
	// one page
	// <nil> 12.5
}

// A cache of booleans in Redis, under one in memory. Any client of Redis will do; this one has nothing.
func ExampleRedis() {
	server := service()
	defer server.Close()
	// With go-redis: return client.Do(ctx, command...).Result()
	store := flagstream.Redis(func(ctx context.Context, command ...any) (any, error) {
		return []any{nil}, nil
	})
	flags, err := flagstream.New(server.URL, flagstream.Options{Environment: "production", Redis: store, Cache: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer flags.Close()
	fmt.Println(flagstream.Value(context.Background(), flags, "theme-variant", flagstream.Who{UserID: "user-123"}, "light"))
	// Output: dark
}

// Listeners receive each change, here from a message of feature-flag-updates.
func ExampleClient_OnChange() {
	flags, err := flagstream.New("http://flagstream:8082", flagstream.Options{Cache: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer flags.Close()
	stop := flags.OnChange(func(change flagstream.FlagChange) { fmt.Println(change.Type, change.FlagName, change.Version) })
	defer stop()
	flags.ApplyInvalidation([]byte(`{"event_type": "FEATURE_FLAG_UPDATED", "flag_name": "theme-variant", "environment": "production", "version": 7}`))
	// Output: FEATURE_FLAG_UPDATED theme-variant 7
}

// Each request has the flags of its user.
func ExampleMiddleware() {
	flags := flagstream.NewMock(map[string]any{"new-checkout": true})
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if flagstream.FromContext(r.Context()).IsEnabled(r.Context(), "new-checkout", false) {
			fmt.Fprint(w, "one page")
		}
	})
	// A real service takes the user from its session.
	options := flagstream.RequestOptions{User: func(*http.Request) string { return "user-123" }}
	answer := httptest.NewRecorder()
	flagstream.Middleware(flags, options)(page).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/checkout", nil))
	fmt.Println(answer.Body, flags.Asked()[0].Who.UserID)
	// Output: one page user-123
}
