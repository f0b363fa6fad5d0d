'use strict';

const { FeatureFlagsClient } = require('./client.js');
const { FlagstreamError } = require('./errors.js');
const { MockFeatureFlagsClient } = require('./mock.js');
const { mockFlag } = require('./overrides.js');

// `require` returns the class itself, and imports of names work too.
module.exports = FeatureFlagsClient;
module.exports.default = FeatureFlagsClient;
module.exports.FeatureFlagsClient = FeatureFlagsClient;
module.exports.FlagstreamError = FlagstreamError;
module.exports.MockFeatureFlagsClient = MockFeatureFlagsClient;
module.exports.mockFlag = mockFlag;
