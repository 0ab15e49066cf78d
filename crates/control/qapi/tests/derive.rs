//! The derive and the visitor, through types of every kind.

use qapi::{
    Command, Event, Input, Introspection, Members, Qapi, QapiEnum, Union, Value, from_arg, from_json,
    from_keyval, to_value,
};

/// A colour.
#[derive(Clone, Copy, Debug, PartialEq, Qapi)]
enum Colour {
    /// Red.
    Red,
    /// Dark green.
    #[qapi(name = "dark_green", features = ["new"], unstable)]
    DarkGreen,
    /// Never there.
    #[qapi(if(any()))]
    Infrared,
}

#[derive(Clone, Debug, Default, PartialEq, Qapi)]
#[qapi(features = ["solid"])]
struct Base {
    /// Width.
    width: Option<u8>,
    #[qapi(size)]
    area: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Qapi)]
struct Circle {
    radius: f64,
    #[qapi(name = "fill_colour", deprecated, if(all()))]
    fill: Option<Colour>,
}

#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "shape", tag_enum = "ShapeKind")]
enum ShapeOptions {
    Circle(Circle),
    /// No members.
    Point,
    #[qapi(name = "nested-shape")]
    Nested(Box<Drawing>),
}

#[derive(Clone, Debug, PartialEq, Qapi)]
struct Drawing {
    #[qapi(union)]
    shape: ShapeOptions,
    #[qapi(flatten)]
    base: Base,
    id: String,
    below: Option<Ref>,
    marks: Option<Vec<Mark>>,
    any: Option<Value>,
    #[qapi(if(any()))]
    gone: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Qapi)]
struct Mark {
    x: i16,
    on: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(alternate)]
enum Ref {
    Definition(Box<Drawing>),
    Name(String),
    None,
}

#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(alternate, schema_name = "BoolOrInt")]
enum BoolOrInt {
    Bool(bool),
    Int(i64),
}

#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(tag = "type", tag_type = Colour, wrap = "data")]
enum Wrapped {
    Red(Mark),
    #[qapi(if(all()))]
    DarkGreen,
    #[qapi(if(any()))]
    Infrared,
}

/// Draws.
#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "draw", ret = Vec<Mark>, allow_oob, features = ["fast"])]
struct Draw {
    items: Vec<Drawing>,
    colours: Option<Vec<Colour>>,
}

#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "draw-one", unstable)]
struct DrawOne(Drawing);

#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(command = "clear", allow_preconfig)]
struct Clear;

#[derive(Clone, Debug, PartialEq, Qapi)]
#[qapi(event = "DRAWN", deprecated)]
struct Drawn {
    id: String,
}

fn json<T: Qapi>(text: &str) -> Result<T, String> {
    from_json(Value::parse_json(text).unwrap()).map_err(|e| e.desc().to_owned())
}

fn error<T: Qapi>(text: &str) -> String {
    json::<T>(text).err().unwrap_or_else(|| panic!("accepted: {text}"))
}

fn keyval_error<T: Qapi>(text: &str) -> String {
    from_keyval::<T>(text, None).err().unwrap_or_else(|| panic!("accepted: {text}")).desc().to_owned()
}

#[test]
fn reads_and_writes() {
    let text = r#"{"shape": "circle", "width": 3, "area": 4096, "id": "a", "below": {"shape": "point", "id": "b", "below": null}, "marks": [{"x": -1, "on": true}, {"x": 2}], "any": [1], "radius": 1.5, "fill_colour": "dark_green"}"#;
    let d: Drawing = json(text).unwrap();
    assert_eq!(d.shape.tag(), ShapeKind::Circle);
    assert_eq!(d.base, Base { width: Some(3), area: Some(4096) });
    let Some(Ref::Definition(below)) = &d.below else { panic!("{d:?}") };
    assert_eq!((&below.shape, below.below.as_ref()), (&ShapeOptions::Point, Some(&Ref::None)));
    assert_eq!(to_value(&d).to_json(), text, "members stand in the order of the source, a branch's last");
    assert_eq!(json::<Wrapped>("{'data':{'x':1},'type':'red'}"), Ok(Wrapped::Red(Mark { x: 1, on: None })));
    assert_eq!(to_value(&Wrapped::DarkGreen).to_json(), r#"{"type": "dark_green", "data": {}}"#);
    assert_eq!(json::<BoolOrInt>("7"), Ok(BoolOrInt::Int(7)));
}

#[test]
fn one_visitor_for_both_syntaxes() {
    let flat =
        "circle,radius=2.5,id=a,,b,width=0x10,area=1.5K,marks.0.x=-7,marks.0.on=off,marks.1.x=010,below=c";
    let d: Drawing = from_arg(flat, Some("shape")).unwrap();
    let structured = r#"{"shape":"circle","radius":2.5,"id":"a,b","width":16,"area":1536,"marks":[{"x":-7,"on":false},{"x":8}],"below":"c"}"#;
    assert_eq!(from_arg::<Drawing>(structured, Some("shape")), Ok(d));
}

/// The texts are those of the reference for the same mistake.
#[test]
fn messages_with_paths() {
    for (text, message) in [
        ("{}", "Parameter 'items' is missing"),
        ("{'items':5}", "Invalid parameter type for 'items', expected: array"),
        ("{'items':[5]}", "Invalid parameter type for 'items[0]', expected: object"),
        ("{'items':[],'bogus':1}", "Parameter 'bogus' is unexpected"),
        ("{'items':[{}]}", "Parameter 'items[0].shape' is missing"),
        ("{'items':[{'shape':5}]}", "Invalid parameter type for 'items[0].shape', expected: string"),
        ("{'items':[{'shape':'x'}]}", "Parameter 'shape' does not accept value 'x'"),
        ("{'items':[{'shape':'point','id':'a','bogus':1}]}", "Parameter 'items[0].bogus' is unexpected"),
        ("{'items':[{'shape':'circle','id':'a'}]}", "Parameter 'items[0].radius' is missing"),
        (
            "{'items':[{'shape':'circle','id':'a','radius':'x'}]}",
            "Invalid parameter type for 'items[0].radius', expected: number",
        ),
        (
            "{'items':[{'shape':'point','id':5}]}",
            "Invalid parameter type for 'items[0].id', expected: string",
        ),
        (
            "{'items':[{'shape':'point','id':'a','below':{'shape':'point','id':'b','x':1}}]}",
            "Parameter 'items[0].below.x' is unexpected",
        ),
        (
            "{'items':[{'shape':'point','id':'a','below':5}]}",
            "Invalid parameter type for 'below', expected: Ref",
        ),
        ("{'items':[{'shape':'point','id':'a','width':256}]}", "Parameter 'items[0].width' expects uint8_t"),
        ("{'items':[{'shape':'point','id':'a','width':'1'}]}", "Parameter 'items[0].width' expects uint64"),
        ("{'items':[{'shape':'point','id':'a','area':-1}]}", "Parameter 'items[0].area' expects uint64"),
        ("{'items':[{'shape':'point','id':'a','area':'1M'}]}", "Parameter 'items[0].area' expects uint64"),
        (
            "{'items':[{'shape':'point','id':'a','marks':[{'x':1.0}]}]}",
            "Invalid parameter type for 'items[0].marks[0].x', expected: integer",
        ),
        (
            "{'items':[{'shape':'point','id':'a','marks':[{'x':70000}]}]}",
            "Parameter 'items[0].marks[0].x' expects int16_t",
        ),
        (
            "{'items':[{'shape':'point','id':'a','marks':[{'x':1},{'x':1,'on':'on'}]}]}",
            "Invalid parameter type for 'items[0].marks[1].on', expected: boolean",
        ),
        ("{'items':[],'colours':['blue']}", "Parameter 'null' does not accept value 'blue'"),
        ("{'items':[],'colours':[null]}", "Invalid parameter type for 'colours[0]', expected: string"),
        ("{'items':[],'colours':['infrared']}", "Parameter 'null' does not accept value 'infrared'"),
        ("{'items':[{'shape':'point','id':'a','gone':true}]}", "Parameter 'items[0].gone' is unexpected"),
    ] {
        assert_eq!(error::<Draw>(text), message, "{text}");
    }
    assert_eq!(error::<Clear>("{'x':1}"), "Parameter 'x' is unexpected");
    assert_eq!(error::<Wrapped>("{'type':'infrared'}"), "Parameter 'type' does not accept value 'infrared'");
    assert_eq!(Wrapped::Infrared.tag(), Colour::Infrared);
    assert_eq!(error::<Wrapped>("{'type':'red'}"), "Parameter 'data' is missing");
    assert_eq!(error::<Wrapped>("{'type':'red','data':{}}"), "Parameter 'data.x' is missing");
    assert_eq!(error::<BoolOrInt>("'on'"), "Invalid parameter type for 'null', expected: BoolOrInt");
}

#[test]
fn messages_of_keyval() {
    for (text, message) in [
        ("shape=point,id=a,width=x", "Parameter 'width' expects integer"),
        ("shape=point,id=a,width=", "Parameter 'width' expects integer"),
        ("shape=point,id=a,width=-1", "Parameter 'width' expects integer"),
        ("shape=point,id=a,width=300", "Parameter 'width' expects uint8_t"),
        ("shape=point,id=a,area=x", "Parameter 'area' expects size"),
        ("shape=circle,id=a,radius=nan", "Parameter 'radius' expects number"),
        ("shape=point,id=a,marks.0.x=1,marks.0.on=TRUE", "Parameter 'marks.0.on' expects 'on' or 'off'"),
        ("shape=point,id=a,marks=5", "Invalid parameter type for 'marks', expected: array"),
        ("shape=point,id=a,marks.0=5", "Invalid parameter type for 'marks.0', expected: object"),
        ("shape=point,id=a,marks.0.y=5", "Parameter 'marks.0.x' is missing"),
        ("shape=point,id=a,id.b=c", "Parameters 'id.*' used inconsistently"),
        ("shape=point,id=a,foo=1", "Parameter 'foo' is unexpected"),
    ] {
        assert_eq!(keyval_error::<Drawing>(text), message, "{text}");
    }
    let d: Drawing = from_keyval("shape=point,id=a,below=null", None).unwrap();
    assert_eq!(d.below, Some(Ref::Name("null".into())), "key=value text cannot say null");
    let alternate = |text: &str| BoolOrInt::input(&mut Input::keyval(), Value::from(text));
    assert_eq!(alternate("on"), Ok(BoolOrInt::Bool(true)));
    assert_eq!(alternate("-12"), Ok(BoolOrInt::Int(-12)));
    assert!(alternate("maybe").is_err());
}

#[test]
fn enumerations() {
    assert_eq!(Colour::NAMES, ["red", "dark_green"]);
    assert_eq!(Colour::ALL, [Colour::Red, Colour::DarkGreen]);
    assert_eq!(<Colour as QapiEnum>::from_str("red"), Some(Colour::Red));
    assert_eq!(format!("{:>5}", Colour::Red), "  red");
    assert_eq!(ShapeKind::NAMES, ["circle", "point", "nested-shape"]);
}

/// Nesting is bounded, and the deepest that is allowed fits the stack of a small thread.
#[test]
fn deep_input() {
    let nested = |n: usize| {
        let open = "{\"shape\":\"point\",\"id\":\"a\",\"below\":".repeat(n);
        format!("{open}null{}", "}".repeat(n))
    };
    let work = move || {
        let d: Drawing = json(&nested(qapi::visit::MAX_DEPTH)).unwrap();
        assert_eq!(from_json::<Drawing>(to_value(&d)), Ok(d));
        assert_eq!(error::<Drawing>(&nested(qapi::visit::MAX_DEPTH + 1)), "Parameters are nested too deeply");
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn commands_and_events() {
    assert_eq!((Draw::NAME, Draw::ALLOW_OOB, Draw::ALLOW_PRECONFIG), ("draw", true, false));
    assert_eq!((Draw::FEATURES, Draw::DOC), (&["fast"][..], "Draws."));
    assert_eq!((Clear::NAME, Clear::ALLOW_PRECONFIG), ("clear", true));
    assert_eq!((Drawn::NAME, <Drawn as Event>::FEATURES), ("DRAWN", &["deprecated"][..]));
    assert_eq!(json::<Clear>("{}"), Ok(Clear));
    let one: DrawOne = json("{'shape':'point','id':'a'}").unwrap();
    let mut members = qapi::Dict::new();
    one.0.output_members(&mut members);
    assert_eq!(Value::Dict(members), to_value(&one));
}

#[test]
fn introspection() {
    let mut i = Introspection::new();
    i.command::<Draw>();
    i.command::<DrawOne>();
    i.command::<Clear>();
    i.event::<Drawn>();
    i.command::<Clear>();
    assert_eq!(i.names().collect::<Vec<_>>(), ["draw", "draw-one", "clear", "DRAWN"]);
    insta::assert_snapshot!(lines(&i.finish()), @r#"
    {"name": "draw", "meta-type": "command", "arg-type": "1", "ret-type": "[2]", "allow-oob": true, "features": ["fast"]}
    {"name": "draw-one", "meta-type": "command", "arg-type": "3", "ret-type": "0", "features": ["unstable"]}
    {"name": "clear", "meta-type": "command", "arg-type": "0", "ret-type": "0"}
    {"name": "DRAWN", "meta-type": "event", "arg-type": "4", "features": ["deprecated"]}
    {"name": "0", "meta-type": "object", "members": []}
    {"name": "1", "meta-type": "object", "members": [{"name": "items", "type": "[3]"}, {"name": "colours", "default": null, "type": "[5]"}]}
    {"name": "2", "meta-type": "object", "members": [{"name": "x", "type": "int"}, {"name": "on", "default": null, "type": "bool"}]}
    {"name": "[2]", "meta-type": "array", "element-type": "2"}
    {"name": "3", "meta-type": "object", "members": [{"name": "shape", "type": "6"}, {"name": "width", "default": null, "type": "int"}, {"name": "area", "default": null, "type": "int"}, {"name": "id", "type": "str"}, {"name": "below", "default": null, "type": "7"}, {"name": "marks", "default": null, "type": "[2]"}, {"name": "any", "default": null, "type": "any"}], "tag": "shape", "variants": [{"case": "circle", "type": "8"}, {"case": "point", "type": "0"}, {"case": "nested-shape", "type": "3"}]}
    {"name": "4", "meta-type": "object", "members": [{"name": "id", "type": "str"}]}
    {"name": "[3]", "meta-type": "array", "element-type": "3"}
    {"name": "5", "meta-type": "enum", "members": [{"name": "red"}, {"name": "dark_green", "features": ["new", "unstable"]}], "values": ["red", "dark_green"]}
    {"name": "[5]", "meta-type": "array", "element-type": "5"}
    {"name": "int", "meta-type": "builtin", "json-type": "int"}
    {"name": "bool", "meta-type": "builtin", "json-type": "boolean"}
    {"name": "6", "meta-type": "enum", "members": [{"name": "circle"}, {"name": "point"}, {"name": "nested-shape"}], "values": ["circle", "point", "nested-shape"]}
    {"name": "str", "meta-type": "builtin", "json-type": "string"}
    {"name": "7", "meta-type": "alternate", "members": [{"type": "3"}, {"type": "str"}, {"type": "null"}]}
    {"name": "any", "meta-type": "builtin", "json-type": "value"}
    {"name": "8", "meta-type": "object", "members": [{"name": "radius", "type": "number"}, {"name": "fill_colour", "default": null, "type": "5", "features": ["deprecated"]}]}
    {"name": "null", "meta-type": "builtin", "json-type": "null"}
    {"name": "number", "meta-type": "builtin", "json-type": "number"}
    "#);
}

fn lines(schema: &Value) -> String {
    schema.as_list().unwrap().iter().map(|e| e.to_json() + "\n").collect()
}
