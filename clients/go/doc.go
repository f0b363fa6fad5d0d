// Package flagstream asks flagstream about feature flags: evaluated by the service, cached here, invalidated as they change.
//
//	flags, err := flagstream.New("http://flagstream:8082", flagstream.Options{Environment: "production"})
//	if flags.IsEnabled(ctx, "new-ui-enabled", flagstream.Who{UserID: "user-123"}, false) {
//
// IsEnabled, EvaluateFlag, Value, BatchEvaluate and BulkEvaluateFlags always answer: with the default if the service does not.
// Evaluate and EvaluateMany return an *Error instead. A Client may be used by any number of goroutines.
package flagstream
