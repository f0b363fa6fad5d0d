package flagstreamtest_test

import (
	"context"
	"fmt"
	"testing"

	"flagstream.dev/clients/go/flagstream"
	"flagstream.dev/clients/go/flagstreamtest"
)

func TestAFlagHasItsValueUntilTheTestEnds(t *testing.T) {
	ctx, who := context.Background(), flagstream.Who{UserID: "u"}
	mock := flagstream.NewMock(map[string]any{"known": false})
	mock.SetVariant("checkout", "classic")
	t.Run("inner", func(t *testing.T) {
		flagstreamtest.MockFlag(t, mock, "known", true)
		flagstreamtest.MockFlag(t, mock, "new", true)
		flagstreamtest.MockFlag(t, mock, "checkout", true)
		if !mock.IsEnabled(ctx, "known", who, false) || !mock.IsEnabled(ctx, "new", who, false) || mock.GetVariant(ctx, "checkout", who, "none") != "none" {
			t.Error("not in force")
		}
	})
	if mock.IsEnabled(ctx, "known", who, true) || !mock.IsEnabled(ctx, "new", who, true) || mock.GetVariant(ctx, "checkout", who, "none") != "classic" {
		t.Error("not restored")
	}
}

// recorder stands for a test.
type recorder struct{ cleanups []func() }

func (r *recorder) Helper()              {}
func (r *recorder) Cleanup(after func()) { r.cleanups = append(r.cleanups, after) }

func ExampleMockFlag() {
	flags := flagstream.NewMock(nil)
	greeting := func() string {
		if flags.IsEnabled(context.Background(), "new-ui-enabled", flagstream.Who{UserID: "user-123"}, false) {
			return "Welcome to the new interface"
		}
		return "Welcome"
	}
	t := &recorder{} // the *testing.T of the test
	flagstreamtest.MockFlag(t, flags, "new-ui-enabled", true)
	fmt.Println(greeting())
	t.cleanups[0]() // the test ends
	fmt.Println(greeting())
	// Output:
	// Welcome to the new interface
	// Welcome
}
