use serde_json::json;

use super::*;

fn schema(spec: Value) -> Value {
    json!({"type": "object", "properties": {"spec": spec, "status": {"type": "object",
        "x-kubernetes-preserve-unknown-fields": true}}})
}

fn parse(spec: Value) -> StructuralSchema {
    StructuralSchema::parse(&schema(spec)).unwrap()
}

/// Returns the errors of an object whose spec has this schema, as text.
#[track_caller]
fn errors_of(spec_schema: Value, spec: Value) -> Vec<String> {
    let errors = parse(spec_schema).validate(&json!({"spec": spec}), None);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn invalid_scalars_have_the_messages_of_the_server() {
    assert_refusals(&[
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "spec.a: Invalid value: 0: spec.a in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 5}),
            json!(6),
            "spec.a: Invalid value: 6: spec.a in body should be less than or equal to 5",
        ),
        (
            json!({"type": "number", "minimum": 1, "exclusiveMinimum": true}),
            json!(1),
            "spec.a: Invalid value: 1: spec.a in body should be greater than 1",
        ),
        (
            json!({"type": "integer", "multipleOf": 2}),
            json!(3),
            "spec.a: Invalid value: 3: spec.a in body should be a multiple of 2",
        ),
        (
            json!({"type": "integer"}),
            json!("x"),
            r#"spec.a: Invalid value: "string": spec.a in body must be of type integer: "string""#,
        ),
        (
            json!({"type": "string"}),
            json!(null),
            r#"spec.a: Invalid value: "null": spec.a in body must be of type string: "null""#,
        ),
        (
            json!({"type": "string", "enum": ["x", "y"]}),
            json!("z"),
            r#"spec.a: Unsupported value: "z": supported values: "x", "y""#,
        ),
        (
            json!({"type": "string", "minLength": 1}),
            json!(""),
            r#"spec.a: Invalid value: "": spec.a in body should be at least 1 chars long"#,
        ),
        (
            json!({"type": "string", "maxLength": 2}),
            json!("abc"),
            "spec.a: Too long: may not be more than 2 bytes",
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            r#"spec.a: Invalid value: "b": spec.a in body should match '^a+$'"#,
        ),
        (
            json!({"type": "string", "format": "ipv4"}),
            json!("b"),
            r#"spec.a: Invalid value: "b": spec.a in body must be of type ipv4: "b""#,
        ),
    ]);
}

#[test]
fn invalid_containers_and_combinations_have_the_messages_of_the_server() {
    assert_refusals(&[
        (
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", "b"]),
            "spec.a: Too many: 2: must have at most 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
            json!([]),
            "spec.a: Invalid value: 0: spec.a in body should have at least 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
            json!(["a", "b", "a"]),
            r#"spec.a[2]: Duplicate value: "a""#,
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            json!({"k": "v"}),
            r#"spec.a.k: Invalid value: "string": spec.a.k in body must be of type integer: "string""#,
        ),
        (json!({"type": "object", "required": ["b"]}), json!({}), "spec.a.b: Required value"),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            r#"spec.a: Invalid value: "boolean": spec.a in body must be of type integer,string: "boolean""#,
        ),
        (
            json!({"type": "integer", "not": {"enum": [3]}}),
            json!(3),
            r#"spec.a: Invalid value: "integer": "spec.a" must not validate the schema (not)"#,
        ),
        (
            json!({"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 1}]}),
            json!(3),
            r#"spec.a: Invalid value: "integer": "spec.a" must validate at least one schema (anyOf)"#,
        ),
    ]);
}

#[track_caller]
fn assert_refusals(cases: &[(Value, Value, &str)]) {
    for (schema, value, expected) in cases {
        let spec = json!({"type": "object", "properties": {"a": schema}});
        assert_eq!(errors_of(spec, json!({"a": value})), [*expected], "{schema} with {value}");
    }
}

#[test]
fn good_values_are_accepted() {
    let cases = [
        (json!({"type": "string", "nullable": true}), json!(null)),
        (json!({"type": "integer"}), json!(3.0)),
        (json!({"x-kubernetes-int-or-string": true}), json!("50%")),
        (
            json!({"x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            json!(5),
        ),
        (json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}), json!({"x": 1})),
        (json!({"type": "integer", "oneOf": [{"minimum": 5}, {"maximum": 1}]}), json!(7)),
    ];
    for (schema, value) in cases {
        let spec = json!({"type": "object", "properties": {"a": schema}});
        assert_eq!(errors_of(spec.clone(), json!({"a": value})), [""; 0], "{spec} with {value}");
    }
}

#[test]
fn a_list_of_type_map_has_unique_keys_with_defaults() {
    let spec = json!({"type": "object", "properties": {"ports": {
        "type": "array", "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["port", "protocol"],
        "items": {"type": "object", "required": ["port"], "properties": {
            "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}},
    }}});
    let ports = json!({"ports": [{"port": 1}, {"port": 1, "protocol": "UDP"},
        {"port": 1, "protocol": "TCP"}]});
    assert_eq!(
        errors_of(spec, ports),
        [r#"spec.ports[2]: Duplicate value: {"port":1,"protocol":"TCP"}"#]
    );
}

#[test]
fn schemas_that_are_not_structural_are_refused() {
    let cases = [
        (json!({"properties": {}}), "type: Required value: must not be empty at the root"),
        (json!({"type": "string"}), r#"type: Invalid value: "string": must be object at the root"#),
        (
            json!({"type": "object", "additionalProperties": true}),
            "additionalProperties: Forbidden: must not be used at the root",
        ),
        (
            schema(json!({"properties": {}})),
            "properties[spec].type: Required value: must not be empty for specified object fields",
        ),
        (
            schema(json!({"type": "array"})),
            "properties[spec].items: Required value: must be specified",
        ),
        (
            schema(json!({"type": "array", "items": {}})),
            "properties[spec].items.type: Required value: must not be empty for specified array items",
        ),
        (
            schema(json!({"type": "widget"})),
            r#"properties[spec].type: Unsupported value: "widget": supported values: "array", "boolean", "integer", "number", "object", "string""#,
        ),
        (
            schema(json!({"type": "object", "$ref": "#/x"})),
            "properties[spec].$ref: Forbidden: $ref is not supported",
        ),
        (
            schema(json!({"type": "object", "properties": {"a": {"type": "string"}},
            "additionalProperties": {"type": "string"}})),
            "properties[spec].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            schema(json!({"type": "object", "allOf": [{"type": "object"}]})),
            "properties[spec].allOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            schema(
                json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map"}),
            ),
            "properties[spec].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            schema(json!({"type": "integer", "default": "x"})),
            r#"properties[spec].default: Invalid value: "string": <nil> in body must be of type integer: "string""#,
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object",
            "properties": {"labels": {"type": "object"}}}}}),
            "properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ),
    ];
    for (schema, expected) in cases {
        let errors = StructuralSchema::parse(&schema).unwrap_err();
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [expected], "{schema}");
    }
    let errors =
        StructuralSchema::parse(&schema(json!({"type": "string", "pattern": "("}))).unwrap_err();
    assert!(errors[0].message.contains("must be a valid regular expression"), "{errors:?}");
}

#[test]
fn defaults_fill_from_the_outside_inwards() {
    let schema = parse(json!({"type": "object", "default": {}, "properties": {
        "a": {"type": "integer", "default": 1},
        "n": {"type": "string", "nullable": true, "default": "x"},
        "m": {"type": "object", "additionalProperties": {"type": "object",
            "properties": {"b": {"type": "integer", "default": 2}}}},
        "l": {"type": "array", "items": {"type": "object",
            "properties": {"c": {"type": "integer", "default": 3}}}},
    }}));
    let cases = [
        (json!({}), json!({"spec": {"a": 1, "n": "x"}})),
        (json!({"spec": {"a": null, "n": null}}), json!({"spec": {"a": 1, "n": null}})),
        (
            json!({"spec": {"a": 5, "n": "y", "m": {"k": {}}, "l": [{}, {"c": 9}]}}),
            json!({"spec": {"a": 5, "n": "y", "m": {"k": {"b": 2}}, "l": [{"c": 3}, {"c": 9}]}}),
        ),
    ];
    for (mut object, expected) in cases {
        schema.apply_defaults(&mut object);
        assert_eq!(object, expected);
    }
}

#[test]
fn pruning_removes_undeclared_fields() {
    let schema = parse(json!({"type": "object", "properties": {
        "a": {"type": "string"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"strict": {"type": "object", "properties": {"x": {"type": "string"}}}}},
        "pod": {"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"spec": {"type": "object"}}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
    }}));
    let mut object = json!({
        "apiVersion": "a/v1", "kind": "K", "metadata": {"labels": {"a": "b"}}, "extra": 1,
        "spec": {
            "a": "1", "b": 2, "free": {"any": 1, "strict": {"x": "1", "y": "2"}},
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"q": 1}, "r": 1},
            "map": {"k": "v"}, "list": [{"k": "v", "w": 1}],
        },
        "status": {"anything": true},
    });
    let dropped = schema.prune(&mut object);
    assert_eq!(
        dropped,
        [
            "extra",
            "spec.b",
            "spec.free.strict.y",
            "spec.list[0].w",
            "spec.pod.r",
            "spec.pod.spec.q"
        ]
    );
    assert_eq!(
        object,
        json!({
            "apiVersion": "a/v1", "kind": "K", "metadata": {"labels": {"a": "b"}},
            "spec": {
                "a": "1", "free": {"any": 1, "strict": {"x": "1"}},
                "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}},
                "map": {"k": "v"}, "list": [{"k": "v"}],
            },
            "status": {"anything": true},
        })
    );
}

#[test]
fn nulls_that_are_not_allowed_count_as_absent() {
    let schema = parse(json!({"type": "object", "properties": {
        "a": {"type": "string"},
        "d": {"type": "string", "default": "x"},
        "n": {"type": "string", "nullable": true},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}));
    let mut object =
        json!({"spec": {"a": null, "d": null, "n": null, "free": {"b": null}}, "status": null});
    assert_eq!(schema.prune(&mut object), [""; 0]);
    assert_eq!(object, json!({"spec": {"n": null, "free": {"b": null}}}));
    schema.apply_defaults(&mut object);
    assert_eq!(object["spec"]["d"], "x");
    assert_eq!(schema.validate(&object, None), []);
}

#[test]
fn lists_and_maps_merge_as_the_schema_says() {
    let schema = parse(json!({"type": "object", "properties": {
        "list": {"type": "array", "items": {"type": "string"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {
                "k": {"type": "integer", "default": 7},
                "whole": {"type": "object", "x-kubernetes-map-type": "atomic"}}}},
    }}));
    let (spec, map) = (MergeStep::Field("spec"), MergeStep::Field("map"));
    let list = |name| schema.list_shape(&[spec.clone(), MergeStep::Field(name)]);
    assert_eq!(list("list"), MergeShape::Atomic);
    assert_eq!(list("unknown"), MergeShape::Atomic);
    assert_eq!(list("set"), MergeShape::Set);
    let key = ListMapKey { name: "k".to_owned(), default: Some(json!(7)) };
    assert_eq!(list("map"), MergeShape::Map(vec![key]));
    let item = [spec, map, MergeStep::Item, MergeStep::Field("whole")];
    assert_eq!(schema.map_shape(&item), MergeShape::Atomic);
    assert_eq!(schema.map_shape(&item[..3]), MergeShape::Granular);
    let finalizers = [MergeStep::Field("metadata"), MergeStep::Field("finalizers")];
    assert_eq!(schema.list_shape(&finalizers), MergeShape::Set);
}

#[test]
fn rules_refuse_with_their_message() {
    let rule = |rule: Value| {
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "x-kubernetes-validations": [rule]})
    };
    let spec = json!({"a": 2, "b": 1});
    let cases = [
        (
            json!({"rule": "self.a <= self.b"}),
            r#"spec: Invalid value: "object": failed rule: self.a <= self.b"#,
        ),
        (
            json!({"rule": "self.a <= self.b", "message": "a must not exceed b"}),
            r#"spec: Invalid value: "object": a must not exceed b"#,
        ),
        (
            json!({"rule": "self.a <= self.b", "messageExpression": "'a is ' + string(self.a)"}),
            r#"spec: Invalid value: "object": a is 2"#,
        ),
        (
            json!({"rule": "self.a <= self.b", "fieldPath": ".a", "reason": "FieldValueForbidden",
            "message": "no"}),
            "spec.a: Forbidden: no",
        ),
        (
            json!({"rule": "self.a <= self.b", "reason": "FieldValueRequired", "message": "no"}),
            "spec: Required value: no",
        ),
    ];
    for (case, expected) in cases {
        assert_eq!(errors_of(rule(case.clone()), spec.clone()), [expected], "{case}");
        assert_eq!(errors_of(rule(case.clone()), json!({"a": 1, "b": 1})), [""; 0], "{case}");
    }
    let errors = errors_of(rule(json!({"rule": "self.c == 1"})), spec);
    assert!(errors[0].ends_with("evaluating rule: self.c == 1"), "{errors:?}");
}

#[test]
fn rules_that_do_not_compile_refuse_the_schema() {
    let cases = [
        (json!({"rule": "self.a =="}), "properties[spec].x-kubernetes-validations[0].rule"),
        (json!({"rule": "object.a == 1"}), "properties[spec].x-kubernetes-validations[0].rule"),
        (json!({"rule": "[1].all(x, x < y)"}), "properties[spec].x-kubernetes-validations[0].rule"),
        (json!({"rule": ""}), "properties[spec].x-kubernetes-validations[0].rule"),
        (
            json!({"rule": "true", "messageExpression": "'a"}),
            "properties[spec].x-kubernetes-validations[0].messageExpression",
        ),
        (
            json!({"rule": "true", "reason": "Whim"}),
            "properties[spec].x-kubernetes-validations[0].reason",
        ),
        (
            json!({"rule": "true", "fieldPath": "a"}),
            "properties[spec].x-kubernetes-validations[0].fieldPath",
        ),
    ];
    for (rule, field) in cases {
        let spec = json!({"type": "object", "x-kubernetes-validations": [rule]});
        let errors = StructuralSchema::parse(&schema(spec)).unwrap_err();
        assert_eq!(errors.len(), 1, "{rule}");
        assert_eq!(errors[0].field, field, "{rule}");
    }
    let spec = json!({"type": "array", "items": {"type": "string",
        "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}});
    let errors = StructuralSchema::parse(&schema(spec)).unwrap_err();
    assert!(errors[0].message.contains("uncorrelatable"), "{errors:?}");
}

#[test]
fn transition_rules_compare_with_the_old_value() {
    let schema = parse(json!({"type": "object", "properties": {
        "image": {"type": "string",
            "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "immutable"}]},
        "shards": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"},
                "size": {"type": "integer",
                    "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "never shrinks"}]},
            }}},
        "once": {"type": "integer", "x-kubernetes-validations": [
            {"rule": "!oldSelf.hasValue() || self > oldSelf.value()", "optionalOldSelf": true,
             "message": "must grow"}]},
    }}));
    let old = json!({"spec": {"image": "a", "once": 1,
        "shards": [{"name": "x", "size": 3}, {"name": "y", "size": 1}]}});
    let texts = |new: &Value, old: Option<&Value>| -> Vec<String> {
        schema.validate(new, old).iter().map(ToString::to_string).collect()
    };
    assert_eq!(texts(&old, None), [""; 0], "create");
    let new = json!({"spec": {"image": "b", "once": 2,
        "shards": [{"name": "y", "size": 2}, {"name": "x", "size": 2}, {"name": "z", "size": 0}]}});
    assert_eq!(
        texts(&new, Some(&old)),
        [
            r#"spec.image: Invalid value: "b": immutable"#,
            "spec.shards[1].size: Invalid value: 2: never shrinks"
        ]
    );
    let same = texts(&old, Some(&old));
    assert_eq!(same, ["spec.once: Invalid value: 1: must grow"], "transition rules always run");
}

#[test]
fn an_unchanged_value_is_not_refused_again() {
    let schema = parse(json!({"type": "object", "properties": {
        "a": {"type": "integer", "minimum": 5}, "b": {"type": "integer", "minimum": 5}}}));
    let old = json!({"spec": {"a": 1, "b": 6}});
    let new = json!({"spec": {"a": 1, "b": 2}});
    let fields: Vec<String> =
        schema.validate(&new, Some(&old)).into_iter().map(|error| error.field).collect();
    assert_eq!(fields, ["spec.b"]);

    let schema = parse(json!({"type": "object", "properties": {"a": {"type": "integer",
        "x-kubernetes-validations": [{"rule": "self >= 5"}]}, "b": {"type": "integer"}}}));
    assert_eq!(schema.validate(&new, Some(&old)), [], "nor by a rule");
    assert_eq!(schema.validate(&new, None).len(), 1);
}

#[test]
fn rules_see_typed_values_and_escaped_names() {
    let spec = json!({"type": "object", "properties": {
        "ratio": {"type": "number", "x-kubernetes-validations": [{"rule": "self < 1.5"}]},
        "until": {"type": "string", "format": "date-time",
            "x-kubernetes-validations": [{"rule": "self > timestamp('2026-01-01T00:00:00Z')"}]},
        "every": {"type": "string", "format": "duration",
            "x-kubernetes-validations": [{"rule": "self >= duration('1m')"}]},
        "map": {"type": "object", "additionalProperties": {"type": "string"},
            "x-kubernetes-validations": [{"rule": "self.all(key, key.startsWith('a-'))"}]},
        "a-b": {"type": "integer"},
    }, "x-kubernetes-validations": [{"rule": "!has(self.a__dash__b) || self.a__dash__b == 1"}]});
    let good = json!({"ratio": 1, "until": "2026-06-01T00:00:00Z", "every": "90s",
        "map": {"a-1": "x"}, "a-b": 1});
    assert_eq!(errors_of(spec.clone(), good), [""; 0]);
    let bad = json!({"ratio": 2, "until": "2025-06-01T00:00:00Z", "every": "9s",
        "map": {"b": "x"}, "a-b": 2});
    assert_eq!(errors_of(spec, bad).len(), 5);
}

#[test]
fn a_schema_is_shared_between_threads() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<StructuralSchema>();
}
