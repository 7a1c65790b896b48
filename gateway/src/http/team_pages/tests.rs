//! The dialect, and what of a folder is served.

use std::{fs, path::Path};

use serde_json::json;
use tempfile::TempDir;

use super::*;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn rendered(source: &str, values: serde_json::Value) -> String {
    let mut environment = environment();
    environment.add_template_owned("x.html", dialect::translate(source).unwrap()).unwrap();
    environment.get_template("x.html").unwrap().render(context::of_json(values)).unwrap()
}

fn error_of(folder: &Path) -> String {
    match TeamPages::load(folder, "default-src 'self'") {
        Ok(_) => panic!("the pages were taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn django_is_rendered_as_django_does() {
    let people = json!({"users": [{"username": "ann"}, {"username": "b<e>n's"}], "n": 2, "none": null, "yes": true, "none_such": []});
    for (template, expected) in [
        ("{% load static i18n %}a{# comment #}b{% comment %} {% nonsense %} {% endcomment %}c", "abc"),
        ("{% for u in users %}{{ forloop.counter }}{{ forloop.counter0 }}{% if not forloop.last %},{% endif %}{% endfor %}", "10,21"),
        ("{% for u in users.all %}{{ u.username }};{% empty %}nobody{% endfor %}", "ann;b&lt;e&gt;n&#x27;s;"),
        ("{% for u in none_such %}x{% empty %}nobody{% endfor %}", "nobody"),
        ("{% for u in users reversed %}{{ u.username|length }} {% endfor %}", "7 3 "),
        ("{{ users.1.username|truncatechars:3|upper }} {{ users.count }}", "B&lt;… 2"),
        ("{{ missing.of.this }}|{{ none }}|{{ yes }}|{{ missing|default:\"a:|b\" }}", "|None|True|a:|b"),
        ("{% static 'css/my style.css' %} {% static \"a.js\" as script %}{{ script }}", "/static/css/my%20style.css /static/a.js"),
        ("{{ users.1.username|json_script:\"who\" }}", "<script id=\"who\" type=\"application/json\">\"b\\u003Ce\\u003En's\"</script>"),
        ("'{{ users.1.username|escapejs }}'", "'b\\u003Ce\\u003En\\u0027s'"),
        ("{% autoescape off %}{{ users.1.username }}{% endautoescape %}{{ users.1.username|safe }}", "b<e>n'sb<e>n's"),
        ("{{ n }} message{{ n|pluralize }} {{ n|yesno:\"a,b\" }}", "2 messages a"),
        (
            "{% verbatim %}{{ mustache }}{% endverbatim %} {a} { {% if n == 2 and users|length > 1 %}ok{% endif %}",
            "{{ mustache }} {a} { ok",
        ),
        ("/{{ 'a/b c'|urlencode }}/{{ 'a/b'|urlencode:'' }}", "/a/b%20c/a%2Fb"),
        ("{% with who=users.0 %}{{ who.username|capfirst }}{% endwith %}", "Ann"),
        ("{{ missing.of|capfirst }}|{{ none|capfirst }}|{{ n|capfirst }}|{{ none|length }}|{{ n|length }}", "|None|2|0|0"),
    ] {
        assert_eq!(rendered(template, people.clone()), expected, "{template}");
    }
}

#[test]
fn a_broken_template_is_named_with_file_and_line() {
    for (template, line, part) in [
        ("one\n{% load static %}\n{% url 'chat' %}", 3, "write the path itself"),
        ("{% comment %}\n\n{% endcomment %}{% if x %}", 3, "chat.html"),
        ("a\n{{ x|date:\"H:i\" }}", 2, "the filter date is not supported"),
        ("a\n\n{% trans \"hello\" %}", 3, "{% trans %} is not supported"),
        ("\n{{ x", 2, "has no }}"),
        ("\n{{ x|default:\"a }}", 2, "a string has no end"),
        ("\n{{ forloop.parentloop.counter }}", 2, "is not supported"),
        ("\n{{ a b }}", 2, "syntax error"),
        ("\n{% include 'none.html' %}", 2, "none.html"),
        ("\n\n{% for u in users %}{{ u.username|truncatechars:\"x\" }}{% endfor %}", 3, "chat.html"),
        // Of what is not always there.
        ("\n{% for g in groups %}{{ g.last_message|first }}{% endfor %}", 2, "cannot get first item"),
        ("\n{% for g in groups %}{{ g.other|join:',' }}\n{{ g.other|last }}{% endfor %}", 3, "cannot get last item"),
        ("\n{% for n in notifications %}{{ n.sender|last }}{% endfor %}", 2, "cannot get last item"),
    ] {
        let folder = folder(&[("chat.html", template)]);
        let error = error_of(folder.path());
        let place = format!("{}:{line}: ", folder.path().join("chat.html").display());
        assert!(error.contains(&place) && error.contains(part), "{template:?}: {error}");
    }
    let in_another = folder(&[("chat.html", "{% include 'parts/list.html' %}"), ("parts/list.html", "\n\n{% url 'x' %}")]);
    assert!(error_of(in_another.path()).contains("parts/list.html:3: "));
}

#[test]
fn a_folder_is_read_as_a_whole_or_not_at_all() {
    let empty = folder(&[("static/a.js", "")]);
    assert!(error_of(empty.path()).contains("chat.html is not there"));
    assert!(error_of(Path::new("/no/such/folder")).contains("cannot be read"));

    let outside = folder(&[("secret", "secret")]);
    for link in ["static/out.txt", "out.html", "static/folder"] {
        let pages = folder(&[("chat.html", ""), ("static/a.js", "")]);
        let target = if link.ends_with("folder") { outside.path().to_owned() } else { outside.path().join("secret") };
        std::os::unix::fs::symlink(target, pages.path().join(link)).unwrap();
        assert!(error_of(pages.path()).contains("leads out of the folder"), "{link}");
    }
    let circle = folder(&[("chat.html", ""), ("static/a.js", "")]);
    std::os::unix::fs::symlink(circle.path(), circle.path().join("static/round")).unwrap();
    assert!(error_of(circle.path()).contains("deep"));

    // Links within are followed: a mounted ConfigMap consists of them.
    let mounted = folder(&[("..data/chat.html", "{{ room_name }}"), ("..data/static/a.js", "x"), (".git/config", "x")]);
    for name in ["chat.html", "static"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), mounted.path().join(name)).unwrap();
    }
    let pages = TeamPages::load(mounted.path(), "default-src 'self'").unwrap();
    assert_eq!(pages.files.keys().collect::<Vec<_>>(), ["a.js"]);
    assert!(!pages.has_sign_in());

    let large = folder(&[("chat.html", "")]);
    fs::create_dir(large.path().join("static")).unwrap();
    fs::File::create(large.path().join("static/film.mp4")).unwrap().set_len(17 << 20).unwrap();
    assert!(error_of(large.path()).contains("film.mp4: has 17825792 bytes"));
    assert!(matches!(TeamPages::load(mounted.path(), "a\nb"), Err(PagesError::Policy)));
}
