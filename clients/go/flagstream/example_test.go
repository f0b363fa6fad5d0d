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
