// The names that answers may contain, after the vendor's description; `fields` and `exclude_fields` are checked against
// them. See lib/shape.js for the notation.

const names = (text, more) => ({ ...Object.fromEntries(text.trim().split(/\s+/).map((name) => [name, 1])), ...more });
const LINKS = [names('rel href method targetSchema schema')];
const collection = (key, item, extra = '') => names(`total_items ${extra}`, { [key]: [item], _links: LINKS });

export const PING = names('health_status');

export const ROOT = names(`account_id login_id account_name email first_name last_name username avatar_url role member_since
  pricing_plan_type first_payment account_timezone account_industry last_login pro_enabled total_subscribers`, {
  contact: names('company addr1 addr2 city state zip country'),
  industry_stats: names('open_rate bounce_rate click_rate'),
  _links: LINKS,
});

export const LIST = names(`id web_id name permission_reminder use_archive_bar notify_on_subscribe notify_on_unsubscribe
  date_created list_rating email_type_option subscribe_url_short subscribe_url_long beamer_address visibility double_optin
  has_welcome marketing_permissions modules`, {
  contact: names('company address1 address2 city state zip country phone'),
  campaign_defaults: names('from_name from_email subject language'),
  stats: names(`member_count total_contacts unsubscribe_count cleaned_count member_count_since_send
    unsubscribe_count_since_send cleaned_count_since_send campaign_count campaign_last_sent merge_field_count avg_sub_rate
    avg_unsub_rate target_sub_rate open_rate click_rate last_sub_date last_unsub_date`),
  _links: LINKS,
});
export const LISTS = collection('lists', LIST);
LISTS.constraints = names('may_create max_instances current_total_instances');

export const MEMBER = names(`id email_address unique_email_id contact_id full_name web_id email_type status
  unsubscribe_reason consents_to_one_to_one_messaging ip_signup timestamp_signup ip_opt timestamp_opt member_rating
  last_changed language vip email_client source tags_count list_id sms_phone_number sms_subscription_status
  sms_subscription_last_updated`, {
  merge_fields: '*',
  interests: '*',
  stats: names('avg_open_rate avg_click_rate', { ecommerce_data: names('total_revenue number_of_orders currency_code') }),
  location: names('latitude longitude gmtoff dstoff country_code timezone region'),
  marketing_permissions: [names('marketing_permission_id text enabled')],
  last_note: names('note_id created_at created_by note'),
  tags: [names('id name')],
  _links: LINKS,
});
export const MEMBERS = collection('members', MEMBER, 'list_id');
export const BATCH = names('total_created total_updated error_count', {
  new_members: [MEMBER],
  updated_members: [MEMBER],
  errors: [names('email_address error error_code field field_message')],
  _links: LINKS,
});
export const BATCH_STATUS = names(`id status total_operations finished_operations errored_operations submitted_at completed_at
  response_body_url`, { _links: LINKS });
export const BATCHES = collection('batches', BATCH_STATUS);
export const MEMBER_TAGS = collection('tags', names('id name date_added'));
export const TAG_SEARCH = collection('tags', names('id name'));
export const FEED = names('email_id list_id', { activity: ['*'], _links: LINKS });
export const SEARCH = {
  exact_matches: names('total_items', { members: [MEMBER] }),
  full_search: names('total_items', { members: [MEMBER] }),
  _links: LINKS,
};

export const MERGE_FIELD = names(`merge_id tag name type required default_value public display_order help_text list_id
  merge_field_limit total_items`, {
  options: names('default_country phone_format date_format choices size'),
  _links: LINKS,
});
export const WEBHOOK = names('id url list_id signing_enabled', {
  events: names('subscribe unsubscribe profile cleaned upemail campaign sms_subscribe sms_unsubscribe upsms sms_campaign'),
  sources: names('user admin api'),
  _links: LINKS,
});
export const WEBHOOKS = collection('webhooks', WEBHOOK, 'list_id');

export const MERGE_FIELDS = collection('merge_fields', MERGE_FIELD, 'list_id merge_field_limit');

export const SEGMENT = names('id name member_count type created_at updated_at list_id', {
  options: names('match', { conditions: ['*'] }),
  _links: LINKS,
});
export const SEGMENTS = collection('segments', SEGMENT, 'list_id');

export const TEMPLATE = names(`id type name drag_and_drop responsive category date_created date_edited created_by edited_by
  active folder_id thumbnail share_url content_type`, { _links: LINKS });
export const TEMPLATES = collection('templates', TEMPLATE);
export const DEFAULT_CONTENT = { sections: '*', _links: LINKS };
export const DOMAINS = collection('domains', names(`domain verified authenticated status verification_email
  verification_sent is_free_email_provider`));

const SUMMARY = names('opens unique_opens open_rate clicks subscriber_clicks click_rate', {
  ecommerce: names('total_orders total_spent total_revenue'),
});
const DELIVERY = names('enabled can_cancel status emails_sent emails_canceled');

export const CAMPAIGN = names(`id web_id parent_campaign_id type create_time archive_url long_archive_url status emails_sent
  send_time content_type needs_block_refresh resendable`, {
  recipients: names('list_id list_is_active list_name segment_text recipient_count', {
    segment_opts: names('saved_segment_id prebuilt_segment_id match', { conditions: ['*'] }),
  }),
  settings: names(`subject_line preview_text title from_name reply_to use_conversation to_name folder_id authenticate
    auto_footer inline_css auto_tweet auto_fb_post fb_comments timewarp template_id drag_and_drop`),
  tracking: names('opens html_clicks text_clicks goal_tracking ecomm360 google_analytics clicktale', {
    salesforce: names('campaign notes'), capsule: names('notes'),
  }),
  social_card: names('image_url description title'),
  report_summary: SUMMARY,
  delivery_status: DELIVERY,
  _links: LINKS,
});
export const CAMPAIGNS = collection('campaigns', CAMPAIGN);
export const CONTENT = names('plain_text html archive_html', {
  variate_contents: [names('content_label plain_text html')], _links: LINKS,
});
export const CHECKLIST = names('is_ready', { items: [names('type id heading details')], _links: LINKS });

export const REPORT = names(`id campaign_title type list_id list_is_active list_name subject_line preview_text emails_sent
  abuse_reports unsubscribed send_time rss_last_send`, {
  bounces: names('hard_bounces soft_bounces syntax_errors'),
  forwards: names('forwards_count forwards_opens'),
  opens: names(`opens_total unique_opens open_rate last_open proxy_excluded_opens proxy_excluded_unique_opens
    proxy_excluded_open_rate`),
  clicks: names('clicks_total unique_clicks unique_subscriber_clicks click_rate last_click'),
  facebook_likes: names('recipient_likes unique_likes facebook_likes'),
  industry_stats: names('type open_rate click_rate bounce_rate unopen_rate unsub_rate abuse_rate'),
  list_stats: names('sub_rate unsub_rate open_rate proxy_excluded_open_rate click_rate'),
  timeseries: [names('timestamp emails_sent unique_opens proxy_excluded_unique_opens recipients_clicks')],
  timewarp: ['*'],
  ecommerce: names('total_orders total_spent total_revenue currency_code'),
  delivery_status: DELIVERY,
  share_report: names('share_url share_password'),
  _links: LINKS,
});
export const REPORTS = collection('reports', REPORT);

const PERSON = 'campaign_id list_id list_is_active email_id email_address vip contact_status';
const MERGED = { merge_fields: '*', _links: LINKS };
export const EMAIL_ACTIVITY_ROW = names('campaign_id list_id list_is_active email_id email_address', {
  activity: [names('action type timestamp url ip')], _links: LINKS,
});
export const EMAIL_ACTIVITY = collection('emails', EMAIL_ACTIVITY_ROW, 'campaign_id');
export const OPEN_DETAILS = collection('members', names(`${PERSON} opens_count proxy_excluded_opens_count`, {
  ...MERGED, opens: [names('timestamp is_proxy_open')],
}), 'campaign_id total_opens total_proxy_excluded_opens');
export const LINK = names(`id url total_clicks click_percentage unique_clicks unique_click_percentage last_click
  campaign_id`, { _links: LINKS });
export const CLICK_DETAILS = collection('urls_clicked', LINK, 'campaign_id');
export const CLICK_MEMBERS = collection('members', names(`${PERSON} clicks url_id`, MERGED), 'campaign_id');
export const SENT_TO = collection('sent_to', names(`${PERSON} status open_count last_open absplit_group gmt_offset`, MERGED),
  'campaign_id');
export const UNSUBSCRIBED = collection('unsubscribes', names(`${PERSON} timestamp reason`, MERGED), 'campaign_id');
export const ABUSE = collection('abuse_reports', names(`${PERSON} id date`, MERGED), 'campaign_id');
