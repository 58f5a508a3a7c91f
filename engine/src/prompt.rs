//! Conversations to prompt text, by the chat template that a checkpoint carries.
//!
//! Templates are Jinja as Python runs it: string methods, `namespace`, `raise_exception`, and blocks that eat their
//! line. Images stand in the text as the checkpoint's image token, once an image.

use crate::{
    tokenizer::Tokenizer,
    weights::{WeightsError, read_json},
};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions; not every template knows them.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Part {
    /// The next picture.
    Image,
    /// Words.
    Text {
        /// The words.
        text: String,
    },
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Image => map.serialize_entry("type", "image")?,
            Self::Text { text } => {
                map.serialize_entry("type", "text")?;
                map.serialize_entry("text", text)?;
            }
        }
        map.end()
    }
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What, in order.
    pub content: Vec<Part>,
}

impl Message {
    /// A turn of words alone.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, content: vec![Part::Text { text: text.into() }] }
    }

    /// A turn of the person with one picture before the words.
    pub fn with_image(text: impl Into<String>) -> Self {
        Self { role: Role::User, content: vec![Part::Image, Part::Text { text: text.into() }] }
    }
}

/// A template that can't be read, or that refuses a conversation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chat template: {0}")]
pub struct TemplateError(String);

/// The fields of `tokenizer_config.json` that templates and texts need.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    chat_template: Json,
    bos_token: Json,
    eos_token: Json,
    unk_token: Json,
}

/// A checkpoint's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    style: Style,
    image_token: String,
    bos: Option<String>,
    eos: Option<String>,
    unk: Option<String>,
}

/// What a template takes for the content of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// One string.
    Text,
    /// A list of parts.
    Parts,
    /// One part; a picture has words about it, which are left empty (HyperCLOVA X SEED Vision).
    Single,
}

impl Style {
    fn of(source: &str) -> Self {
        if source.contains("(vector)") {
            Self::Single
        } else if ["'type'", "\"type\"", ".type"].iter().any(|t| source.contains(t)) {
            Self::Parts
        } else {
            Self::Text
        }
    }
}

/// Tokens of [`SEED`].
const SEED_TOKENS: [&str; 3] = ["<|im_start|>", "<|im_end|>", "<|endofturn|>"];

/// Empty blocks of tools and instructions stand where there are none; a turn of the model ends twice.
const SEED: &str = "\
{{- '<|im_start|>tool_list\\n<|im_end|>\\n' }}
{%- set first = messages[0] if messages else none %}
{%- if not first or first.role != 'system' %}{{- '<|im_start|>system\\n<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>' }}
{%- if message.role == 'assistant' %}{{- '<|endofturn|>' }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}";

/// Name of the only template in an environment.
const NAME: &str = "chat";

/// Where the template of a folder is looked for, its source if it is there, and the tokens it may name.
fn find(folder: &Path) -> Result<(PathBuf, Option<String>, TokenizerConfig), WeightsError> {
    let config_path = folder.join("tokenizer_config.json");
    let config: TokenizerConfig =
        if config_path.is_file() { read_json(&config_path)? } else { TokenizerConfig::default() };
    let (jinja, json) = (folder.join("chat_template.jinja"), folder.join("chat_template.json"));
    let (path, source) = if jinja.is_file() {
        let text = std::fs::read_to_string(&jinja).map_err(|e| WeightsError::file(&jinja, e))?;
        (jinja, Some(text))
    } else if json.is_file() {
        let value: Json = read_json(&json)?;
        (json, value.get("chat_template").and_then(template_text))
    } else {
        (config_path, template_text(&config.chat_template))
    };
    Ok((path, source, config))
}

/// The source of a folder's template, where it has one.
///
/// # Errors
/// A file that can't be read.
pub fn template_source(folder: &Path) -> Result<Option<String>, WeightsError> {
    Ok(find(folder)?.1)
}

/// How a folder's tokenizer writes the beginning of a text and its end, where it has such tokens.
///
/// # Errors
/// A file that can't be read.
pub fn text_marks(folder: &Path) -> Result<(Option<String>, Option<String>), WeightsError> {
    let (_, _, config) = find(folder)?;
    Ok((token_text(&config.bos_token), token_text(&config.eos_token)))
}

impl ChatTemplate {
    /// Finds the template of a folder: `chat_template.jinja`, `chat_template.json`, or a field of
    /// `tokenizer_config.json`, in this order. `image_token` is written where the template itself leaves images out.
    pub fn load(folder: &Path, image_token: &str) -> Result<Self, WeightsError> {
        let (path, source, config) = find(folder)?;
        let source = source.ok_or_else(|| {
            WeightsError::file(
                &path,
                "expected a chat template (chat_template.jinja or a field `chat_template`), found none",
            )
        })?;
        let template = Self::new(&source, image_token).map_err(|e| WeightsError::file(&path, e))?;
        let [bos, eos, unk] = [&config.bos_token, &config.eos_token, &config.unk_token].map(token_text);
        Ok(template.with_tokens(bos, eos, unk))
    }

    /// A template from its source, without special tokens.
    pub fn new(source: &str, image_token: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let raise = |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        };
        environment.add_function("raise_exception", raise);
        let broken = |e: minijinja::Error| TemplateError(format!("expected Jinja, found an error: {e}"));
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(broken)?;
        Ok(Self {
            environment,
            style: Style::of(source),
            image_token: image_token.into(),
            bos: None,
            eos: None,
            unk: None,
        })
    }

    /// The same where it may name tokens that begin a text, end it and stand for what is unknown.
    pub fn with_tokens(self, bos: Option<String>, eos: Option<String>, unk: Option<String>) -> Self {
        Self { bos, eos, unk, ..self }
    }

    /// The template of HyperCLOVA X SEED (specs: hyperclovax, section 6), for files that lost theirs; `None` unless the
    /// tokenizer has the tokens that it writes.
    pub fn by_tokens(tokenizer: &Tokenizer, image_token: &str) -> Option<Self> {
        let known = SEED_TOKENS.iter().all(|token| tokenizer.id(token).is_some());
        Self::new(SEED, image_token).ok().filter(|_| known)
    }

    /// The prompt of a conversation; `answer` ends it where the model's turn begins.
    ///
    /// # Errors
    /// What the template itself raises (a role it does not know, turns out of order), or a prompt that shows another
    /// number of images than the conversation.
    pub fn render(&self, messages: &[Message], answer: bool) -> Result<String, TemplateError> {
        let turns = match self.style {
            Style::Parts => Value::from_serialize(messages),
            Style::Text => Value::from_serialize(self.flatten(messages)),
            Style::Single => Value::from_serialize(messages.iter().flat_map(single).collect::<Vec<_>>()),
        };
        let template = self.environment.get_template(NAME).map_err(|e| TemplateError(e.to_string()))?;
        let context = context! {
            messages => turns, add_generation_prompt => answer,
            bos_token => self.bos.as_deref().unwrap_or_default(),
            eos_token => self.eos.as_deref().unwrap_or_default(),
            unk_token => self.unk.as_deref().unwrap_or_default(),
        };
        let prompt = template.render(context).map_err(|e| TemplateError(e.to_string()))?;
        let expected = messages.iter().flat_map(|m| &m.content).filter(|p| **p == Part::Image).count();
        let found = prompt.matches(&self.image_token).count();
        if found != expected {
            return Err(TemplateError(format!(
                "expected {expected} times `{}` in the prompt, found {found}",
                self.image_token
            )));
        }
        Ok(prompt)
    }

    /// A prompt already begins with the token that the tokenizer would put before it.
    pub fn begins(&self, prompt: &str) -> bool {
        self.bos.as_ref().is_some_and(|bos| !bos.is_empty() && prompt.starts_with(bos.as_str()))
    }

    /// Messages whose content is one string, for templates of text-only models.
    fn flatten(&self, messages: &[Message]) -> Vec<FlatMessage> {
        let part = |p: &Part| match p {
            Part::Image => format!("{}\n", self.image_token),
            Part::Text { text } => text.clone(),
        };
        messages.iter().map(|m| FlatMessage { role: m.role, content: m.content.iter().map(part).collect() }).collect()
    }
}

/// A message of each part.
fn single(message: &Message) -> Vec<Json> {
    let content = |part: &Part| match part {
        Part::Image => serde_json::json!({
            "type": "image", "filename": "", "image": "", "ocr": "", "lens_keywords": "", "lens_local_keywords": "",
        }),
        Part::Text { text } => serde_json::json!({ "type": "text", "text": text }),
    };
    message.content.iter().map(|p| serde_json::json!({ "role": message.role, "content": content(p) })).collect()
}

#[derive(Serialize)]
struct FlatMessage {
    role: Role,
    content: String,
}

/// A template is a string, or a list of named ones of which `default` is meant.
fn template_text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Array(list) => {
            let named = |name: &str| list.iter().find(|t| t.get("name").and_then(Json::as_str) == Some(name));
            let chosen = named("default").or_else(|| list.first())?;
            chosen.get("template").and_then(Json::as_str).map(String::from)
        }
        _ => None,
    }
}

/// A special token is a string or an object with its `content`.
fn token_text(value: &Json) -> Option<String> {
    value.as_str().or_else(|| value.get("content").and_then(Json::as_str)).map(String::from)
}

/// `{% generation %}` marks what a loss counts and prints nothing of its own; Jinja here does not know it. A block
/// that is always taken stands in, so that blanks around it are treated the same.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest.get(start..).and_then(|tag| tag.find("%}")) else { break };
        let (before, tag) =
            (rest.get(..start).unwrap_or_default(), rest.get(start..start + length + 2).unwrap_or_default());
        out.push_str(before);
        match tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = rest.get(start + length + 2..).unwrap_or_default();
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_only_templates_get_strings_with_the_image_inside() {
        let template =
            ChatTemplate::new("{% for m in messages %}[{{ m.role }}] {{ m.content.strip() }}\n{% endfor %}", "<image>")
                .unwrap();
        let prompt = template
            .render(&[Message::with_image("How is it? "), Message::text(Role::Assistant, "Good.")], true)
            .unwrap();
        assert_eq!(prompt, "[user] <image>\nHow is it?\n[assistant] Good.\n");
    }

    #[test]
    fn generation_blocks_print_what_is_in_them() {
        let source = "{%- for m in messages -%}{% generation %}{{ m.role }}{%- endgeneration -%} !{% endfor %}";
        let template = ChatTemplate::new(source, "<image>").unwrap();
        assert_eq!(template.render(&[Message::text(Role::User, "")], false).unwrap(), "user!");
    }

    #[test]
    fn errors_say_what_the_template_says() {
        let template = ChatTemplate::new("{{ raise_exception('No system role here') }}", "<image>").unwrap();
        let error = template.render(&[Message::text(Role::System, "x")], true).unwrap_err().to_string();
        assert!(error.contains("No system role here"), "{error}");
        let blind = ChatTemplate::new("{{ messages[0]['content'][1]['text'] }}{# 'type' #}", "<image>").unwrap();
        let error = blind.render(&[Message::with_image("x")], true).unwrap_err().to_string();
        assert!(error.contains("expected 1 times `<image>` in the prompt, found 0"), "{error}");
        let error = ChatTemplate::new("{% for %}", "<image>").unwrap_err().to_string();
        assert!(error.contains("expected Jinja"), "{error}");
    }
}
