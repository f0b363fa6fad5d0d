// OpenFeature in Go. Nothing of flagstream is needed.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"

	"github.com/open-feature/go-sdk-contrib/providers/ofrep"
	"github.com/open-feature/go-sdk/openfeature"
)

func main() {
	ctx := context.Background()
	url := cmp.Or(os.Getenv("FLAGSTREAM_URL"), "http://localhost:8082")
	// An API token would be one more option: ofrep.WithBearerToken("fst_…").
	provider := ofrep.NewProvider(url, ofrep.WithHeader("Flags-Environment", "production"))
	if err := openfeature.SetProviderAndWait(provider); err != nil {
		log.Fatal(err)
	}
	client := openfeature.NewClient("example")

	user := openfeature.NewEvaluationContext("user-1", map[string]any{"subscription_tier": "premium"})
	premium, _ := client.BooleanValue(ctx, "premium", false, user)
	theme, _ := client.StringValue(ctx, "theme", "light", user)
	retries, _ := client.IntValue(ctx, "max-retries", 3, user)
	config, _ := client.ObjectValue(ctx, "config", nil, user)
	// The error says no more than the details do.
	unknown, _ := client.BooleanValueDetails(ctx, "unknown", true, user)
	fmt.Println("premium", premium)
	fmt.Println("theme", theme)
	fmt.Println("max-retries", retries)
	if members, ok := config.(map[string]any); ok {
		fmt.Println("first region", members["regions"].([]any)[0])
	}
	fmt.Println("unknown", unknown.ErrorCode)
	openfeature.Shutdown()
}
