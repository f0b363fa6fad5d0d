// Package flagstream is a client of flagstream: the service evaluates the flags, the client retries, caches the answers, and
// does not use them after a flag has changed.
//
//	flags, err := flagstream.New("http://flagstream:8082", flagstream.Options{Environment: "production"})
//	if err != nil {
//		return err
//	}
//	defer flags.Close()
//	if flags.IsEnabled(ctx, "new-ui-enabled", flagstream.Who{UserID: "user-123"}, false) {
//		fmt.Println("the new one")
//	}
//
// IsEnabled, EvaluateFlag, Value, BatchEvaluate, BulkEvaluateFlags and GetVariant always return a value: the default if the
// service does not answer. Evaluate and EvaluateMany return an *Error instead. Any number of goroutines may use a Client.
package flagstream
