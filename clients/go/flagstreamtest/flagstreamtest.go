// Package flagstreamtest helps to test services that use flags.
package flagstreamtest

import "flagstream.dev/clients/go/flagstream"

// TB is the part of testing.TB that this package uses.
type TB interface {
	Helper()
	Cleanup(func())
}

// MockFlag gives a flag of a mock a value until the test ends.
func MockFlag(t TB, mock *flagstream.Mock, flag string, value any) {
	t.Helper()
	t.Cleanup(mock.SetFor(flag, value))
}
