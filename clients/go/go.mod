module flagstream.dev/clients/go

go 1.22
