# The decision about one request. Networks and times of day are judged in Python, because not every
# engine can; what arrives here is whether the client is inside. The first denial in the order
# below is the one that is told.
#
# An operator's own module is `package gateway.custom`: it adds to the set `deny`, with texts or with
# objects {"rule": ..., "reason": ...}, and may say `local_only`. It can only narrow what is allowed.
package gateway.authz

import rego.v1

decision := object.union(denial, {"allow": false, "routes": []}) if {
	denial.rule != ""
} else := {"allow": true, "rule": "allowed", "reason": "", "word": "", "param": "", "routes": routes}

denial := {
	"rule": "api_disabled",
	"reason": "API access is disabled for your account.",
	"word": "api_disabled",
	"param": "",
} if {
	disabled
} else := {
	"rule": "model_not_allowed",
	"reason": sprintf("Key '%s' lacks scope for model '%s'.", [input.key.label, input.model.requested]),
	"word": "model_not_allowed",
	"param": "model",
} if {
	not names_model(input.key.allowed_models)
} else := {
	"rule": "model_not_in_policy",
	"reason": sprintf("The policy of key '%s' does not allow model '%s'.", [input.key.label, input.model.requested]),
	"word": "model_not_allowed",
	"param": "model",
} if {
	not names_model(input.policy.allowed_models)
} else := {
	"rule": "model_not_in_plan",
	"reason": sprintf("The model '%s' is not available on your plan.", [input.model.requested]),
	"word": "model_not_allowed",
	"param": "model",
} if {
	plan_lacks_model
} else := {
	"rule": "client_network",
	"reason": sprintf("Key '%s' may not be used from this network.", [input.key.label]),
	"word": "client_network",
	"param": "",
} if {
	not input.client.in_networks
} else := {
	"rule": "time_window",
	"reason": sprintf("Key '%s' may not be used at this time.", [input.key.label]),
	"word": "time_window",
	"param": "",
} if {
	not input.time.in_window
} else := own_denial(sort(own_denials)[0]) if {
	count(own_denials) > 0
}

disabled if input.tenant.api_disabled

disabled if input.policy.api_disabled

names_model(allowed) if "*" in allowed

names_model(allowed) if {
	some name in input.model.names
	name in allowed
}

# A plan that the policy does not speak of has every model.
plan_lacks_model if {
	models := input.policy.plan_models[input.key.plan]
	not names_model(models)
}

own_denials := [denied | some denied in data.gateway.custom.deny]

own_denial(denied) := {"rule": "custom", "reason": denied, "word": "policy_denied", "param": ""} if {
	is_string(denied)
}

own_denial(denied) := {
	"rule": object.get(denied, "rule", "custom"),
	"reason": object.get(denied, "reason", "The request is denied by a policy."),
	"word": "policy_denied",
	"param": "",
} if {
	is_object(denied)
}

own_denial(denied) := {
	"rule": "custom",
	"reason": "The request is denied by a policy.",
	"word": "policy_denied",
	"param": "",
} if {
	not is_string(denied)
	not is_object(denied)
}

# This appliance itself is always open; a wish for the cloud is no more than a wish.
routes := ["cloud", "local"] if {
	cloud_open
} else := ["local"]

cloud_open if {
	input.request.route_hint == "cloud-ok"
	"cloud" in input.policy.allowed_routes
	input.key.route_policy != "local-only"
	not data.gateway.custom.local_only
}
