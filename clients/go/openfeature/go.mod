module flagstream.dev/clients/go/openfeature

go 1.24.0

require (
	flagstream.dev/clients/go v0.1.0
	github.com/open-feature/go-sdk v1.17.0
)

require (
	github.com/go-logr/logr v1.4.3 // indirect
	go.uber.org/mock v0.6.0 // indirect
)

replace flagstream.dev/clients/go => ../
