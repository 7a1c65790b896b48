//! A team's own pages (`http.pages_dir`), in place of the built-in ones: read, translated and tried
//! once at the start (`dialect`, `files`), then rendered with what the chat room's page shows
//! (`context`). docs/own-page.md says how such pages are written.

mod context;
mod dialect;
mod error;
mod files;
mod filters;
mod folder;

use std::{collections::HashMap, path::Path};

use axum::http::HeaderValue;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use natter_shared::config::Http;

pub(super) use context::{Chat, SignIn};
pub(crate) use error::PagesError;
pub(super) use files::static_file;

use files::StaticFile;

/// The chat room's page; has to be there.
const CHAT: &str = "chat.html";

/// The sign-in page; the built-in one where it is not there.
const SIGN_IN: &str = "sign_in.html";

/// The pages, as they were at the start.
pub struct TeamPages {
    templates: Environment<'static>,
    files: HashMap<String, StaticFile>,
    /// The Content-Security-Policy that they are served with.
    pub(super) policy: HeaderValue,
}

impl TeamPages {
    /// The pages that the config names, if it does.
    ///
    /// # Errors
    /// A file cannot be read or is too large, or a template is broken: with its file and line.
    pub fn of_config(http: &Http) -> Result<Option<Self>, PagesError> {
        http.pages_dir.as_deref().map(|folder| Self::load(folder, &http.pages_csp)).transpose()
    }

    fn load(folder: &Path, policy: &str) -> Result<Self, PagesError> {
        let policy = HeaderValue::from_str(policy).map_err(|_| PagesError::Policy)?;
        let folder::Contents { templates: sources, files } = folder::read(folder)?;
        let mut templates = environment();
        for (name, source) in sources {
            let source =
                dialect::translate(&source).map_err(|mistake| PagesError::template(folder, &name, mistake.line, mistake.message))?;
            let name_in_errors = name.clone();
            templates.add_template_owned(name, source).map_err(|error| PagesError::rendering(folder, &name_in_errors, &error))?;
        }
        let pages = Self { templates, files, policy };
        pages.try_out(folder)?;
        Ok(pages)
    }

    /// Renders each page with all content, with little and with none: what is wrong is to be known at the start.
    fn try_out(&self, folder: &Path) -> Result<(), PagesError> {
        for chat in [context::sample_chat(), context::sparse_chat(), context::empty_chat()] {
            self.render(CHAT, chat).map_err(|error| PagesError::rendering(folder, CHAT, &error))?;
        }
        if self.has_sign_in() {
            self.render(SIGN_IN, context::sample_sign_in()).map_err(|error| PagesError::rendering(folder, SIGN_IN, &error))?;
        }
        Ok(())
    }

    /// The chat room's page.
    pub(super) fn chat(&self, chat: &Chat<'_>) -> Result<String, minijinja::Error> {
        self.render(CHAT, chat.values())
    }

    /// The team has a sign-in page, too.
    pub(super) fn has_sign_in(&self) -> bool {
        self.templates.get_template(SIGN_IN).is_ok()
    }

    /// The sign-in page.
    pub(super) fn sign_in(&self, sign_in: &SignIn<'_>) -> Result<String, minijinja::Error> {
        self.render(SIGN_IN, sign_in.values())
    }

    fn render(&self, name: &str, values: Value) -> Result<String, minijinja::Error> {
        self.templates.get_template(name)?.render(values)
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // As in Django: what is not there is nothing, and so is what it would have held.
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    filters::add_to(&mut environment);
    environment
}

#[cfg(test)]
mod tests;
