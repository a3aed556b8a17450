# The page of a campaign and the overview of all (N16, R99, R100-R108): the figures are those of the report, what others wrote stays words,
# and the pages stay small whatever the size of a campaign. Their states are in sql/report_html.sql, their looks in test/browser.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 400, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};
my $limit = 200_000;

sub page { my ($campaign) = @_; return $crm->mia("SELECT mc_report_html($campaign)") }
sub text { my ($html) = @_; return $html =~ s/<svg.*?<\/svg>|<[^>]+>/ /gsr =~ s/&nbsp;/ /gr =~ s/ +/ /gr =~ s/^ | $//gr }

# the rows of a section, their cells between blanks
sub rows
{
	my ($page, $id) = @_;
	my ($section) = $page =~ m{<h2 id="$id">(.*?)</section>}s or return 'none';
	my ($body) = $section =~ m{<tbody>(.*?)</tbody>}s;
	return join ' | ', map { text($_) } $body =~ m{<tr>(.*?)</tr>}gs;
}

# every element that is opened is closed, in order
sub nested
{
	my ($html) = @_;
	my @open;
	for my $tag ($html =~ m{<(/?[a-z0-9]+)[^>]*?>}g)
	{
		next if $tag =~ /^(meta|rect|line)$/;
		if ($tag =~ s{^/}{}) { return "$tag closes @open" if !@open || pop(@open) ne $tag }
		else { push @open, $tag }
	}
	return "@open";
}

sub has { my ($page, $wanted, $name) = @_; ok($page =~ /$wanted/s, $name) or diag("no $wanted") }

# ---- N16: figures (R100-R106, R108)

my $campaign = $crm->campaign('Spring <script>alert(1)</script> & "more" \'\'quoted\'\'', '{' . join(',', 1 .. 400, 999) . '}');
$crm->mia("SELECT mc_opt_out('candidate', 400)");
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
$sim->post('/_sim/engage', { campaign => $crm->column($campaign, 'mailchimp_id'), opens => 0.6, clicks => 0.2, hard => 0.02, soft => 0.03,
		unsubscribes => 0.02, abuse => 0.01, machine_opens => 0.2, bot_clicks => 0.05, span_seconds => 86400, links => [ 'https://www.example.org/', 'javascript:alert(2)',
			'https://www.example.org/?a="><img src=x onerror=alert(3)>&b=1' ] });
$crm->both_later(90000);
$crm->mia("SELECT mc_poll_campaign($campaign)");
my $truth = $sim->get('/_sim/truth/' . $crm->column($campaign, 'mailchimp_id'));
# the pages of a poll come in any order
McTest::poll('the figures', sub { $crm->mia(<<"SQL") eq 't' });
SELECT (total_opened, recorded_opened, total_clicked, recorded_clicked) = ($truth->{opens}{total}, $truth->{opens}{total}, $truth->{clicks}{total}, $truth->{clicks}{total})
	AND (SELECT sum(clicks) FROM mc_report_links($campaign)) = total_clicked AND machine_clicked = $truth->{clicks}{total} - $truth->{clicks}{human_total}
	AND (SELECT count(*) FILTER (WHERE type = 'unsubscribed') = unsubscribed + complaints AND count(*) FILTER (WHERE type = 'bounced') = hard_bounces + soft_bounces
		AND count(*) FILTER (WHERE type = 'opened' AND machine) = machine_opened AND count(*) FILTER (WHERE type = 'clicked' AND machine) = machine_clicked
		FROM mc_activity a WHERE a.campaign_id = r.campaign_id)
FROM mc_report r WHERE campaign_id = $campaign
SQL
my $page = page($campaign);
my $percent = sub { sprintf '%.1f %%', 100 * $_[0] / $_[1] };
my ($delivered, $openers, $clickers) = ($truth->{delivered}, $truth->{opens}{unique}, $truth->{clicks}{unique});
my ($machine_opens, $people, $people_rate) = split /\|/, $crm->mia("SELECT machine_opened, human_opened, round(human_open_rate, 1) FROM mc_report WHERE campaign_id = $campaign");
is(nested($page), '', 'well-formed');
is(rows($page, 'funnel'), join(' | ', "sent 399 \&ndash;", "delivered $delivered " . $percent->($delivered, 399), "opened $openers " . $percent->($openers, $delivered),
		"clicked $clickers " . $percent->($clickers, $openers)), 'the funnel: each step in percent of the one before');
cmp_ok($machine_opens, '>', 0, 'machines open');
is(text($page =~ m{(opened by a machine alone.*?)</span>}), 'opened by a machine alone: ' . ($openers - $people) . "; of the $truth->{opens}{total} opens, $machine_opens by machines",
	'D17: their opens apart');
my ($figures) = $page =~ m{<dl class="figures">(.*?)</dl>}s;
is(text($figures), join(' ', "Delivered $delivered of 399 sent 2 not mailed",
		'Opened ' . $percent->($openers, $delivered) . " $openers persons $truth->{opens}{total} opens people only: $people_rate %",
		'Clicked ' . $percent->($clickers, $delivered) . " $clickers persons $truth->{clicks}{total} clicks people only: $truth->{clicks}{human_total} clicks",
		'Bounced ' . ($truth->{hard_bounces} + $truth->{soft_bounces}) . " $truth->{hard_bounces} hard $truth->{soft_bounces} soft",
		"Unsubscribed $truth->{unsubscribed} $truth->{complaints} complaints"), 'the figures (R100-R106, R108)');
is(rows($page, 'bounces'), "example.org $truth->{hard_bounces} $truth->{soft_bounces} 100.0 %", 'bounces by domain and kind');
is(join(' ', sort map { (split / /)[0] } split / \| /, rows($page, 'unsubscribed')),
	join(' ', sort map { $_->{email} } @{ $truth->{unsubscribes} }, @{ $truth->{complaints_by} }), 'who unsubscribed');
has($page, text($truth->{unsubscribes}[0]{reason}), 'and why');
is(rows($page, 'skipped'), 'no address 1 50.0 % | opted out 1 50.0 %', 'who was not mailed, and why');
my ($opens, $clicks, $machines) = (0, 0, 0);
($opens += $1, $clicks += $2, $machines += $3) while $page =~ m{</time>(?: on)?</th><td class="n">(\d+)</td><td class="n">(\d+)</td><td class="n">(\d+)</td>}g;
is("$opens $clicks $machines", join(' ', $truth->{opens}{total}, $truth->{clicks}{total},
		$truth->{opens}{total} - $truth->{opens}{human_total} + $truth->{clicks}{total} - $truth->{clicks}{human_total}),
	'the table behind the chart has all opens and clicks, and how many are of machines');
has($page, 'href="' . quotemeta($crm->mia("SELECT report_url FROM mc_report WHERE campaign_id = $campaign")) . '"[^>]*><bdi>The report at Mailchimp</bdi>',
	'R107: the way to the report at Mailchimp');

# ---- foreign words

has($page, qr{<h1><bdi>Spring &lt;script&gt;alert\(1\)&lt;/script&gt; &amp; &quot;more&quot; &#39;quoted&#39;</bdi></h1>}, 'the subject is words');
ok(join('', $page =~ /<[^>]*>/g) !~ m{<(?:script|img|iframe|link|object|form)|href="(?!https?://)| on\w+=| src=|url\(|\@import}i, 'no script, no asset, no other link');
has(rows($page, 'links'), qr/javascript:alert\(2\)/, 'a link that is none is shown as words');
has($page, qr{default-src 'none'; style-src 'unsafe-inline'}, 'nothing else may be fetched');

# ---- N16: the largest page that others can make, in the characters that take most

my $big = $crm->campaign('x', '{1}');
$crm->super(<<"SQL");
UPDATE mailchimp_sync.campaign SET name = repeat('"', 5000), subject = repeat(U&'\\+01F600', 5000), from_name = repeat('''', 5000), status = 'preparing'
WHERE campaign_id = $big;
UPDATE mailchimp_sync.campaign SET status = 'sent', sent_at = now() WHERE campaign_id = $big;
INSERT INTO mailchimp_sync.report_link (campaign_id, link_id, url, clicks, unique_clicks, last_click) SELECT $big, i::text, 'https://' || i || repeat(t.c, 290 - length(i::text)), i, i, now()
FROM generate_series(1, 2000) i, LATERAL (SELECT (ARRAY[U&'\\+01F600', '''', 'x'])[1 + i % 3]) t(c);
INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, source_id, contact_key, email, reason, bounce_type, recorded_at)
SELECT $big, md5(i::text), t.type, now() + i * interval '1 minute', '', 1, (SELECT min(source_id) FROM mailchimp_sync.source), repeat(t.c, 90),
	repeat(t.c, 500) || '\@' || repeat(t.c, 300) || i % 500, repeat(t.c, 2000), t.kind, now()
FROM generate_series(1, 3000) i, (VALUES ('unsubscribed', NULL, U&'\\+01F600'), ('bounced', 'hard', U&'\\+01F600'), ('opened', NULL, '"')) AS t(type, kind, c);
INSERT INTO mailchimp_sync.report (campaign_id, emails_sent, opens_total, unique_opens, clicks_total, unique_clickers, hard_bounces, soft_bounces,
	syntax_errors, unsubscribed, complaints, polled_at) VALUES ($big, 1e9, 1e9, 1e9, 1e9, 1e9, 0, 0, 0, 1e9, 1e9, now());
SQL
$page = page($big);
cmp_ok(length $page, '<', $limit, 'small, though everything about it is as long as can be (' . length($page) . ')');
is(nested($page), '', 'and well-formed');
ok($page !~ /[^\n\t -~]/, 'ASCII');
has($page, qr{and 1,975 more: <code>mc_report_links\($big\)</code>}, 'what is left out is counted');
has($page, qr{and 480 more: <code>mc_report_bounces\($big\)</code>}, 'of domains, too');
has($page, qr{and 2,960 more: <code>mc_activity, campaign_id $big</code>}, 'and of persons');

# ---- R99: the overview

$page = $crm->mia('SELECT mc_reports_html()');
is(nested($page), '', 'the overview is well-formed');
is(join(' ', rows($page, 'sent') =~ /Campaign (\d+)/g), "$big $campaign", 'every campaign that was sent');
has($page, qr{<bdi>Spring &lt;script&gt;alert}, 'by name');
$crm->super("INSERT INTO mailchimp_sync.campaign (connection, list_id, name, status, marker, created_at, created_by, sent_at, mailchimp_id, web_id)
	SELECT 'demo', 'x', repeat(U&'\\+01F600', 500), CASE WHEN i % 2 = 0 THEN 'sent' ELSE 'failed' END, 'marker' || i, now(), 'x', CASE WHEN i % 2 = 0 THEN now() END, 'x' || i, i
	FROM generate_series(1, 6000) i;
	UPDATE mailchimp_sync.campaign SET last_error = repeat(U&'\\+01F600', 5000) WHERE status = 'failed';
	INSERT INTO mailchimp_sync.report (campaign_id, emails_sent, opens_total, unique_opens, clicks_total, unique_clickers, hard_bounces, soft_bounces,
	syntax_errors, unsubscribed, complaints, polled_at) SELECT campaign_id, 1e9, 1e9, 1e9, 1e9, 1e9, 0, 0, 0, 1e9, 1e9, now() FROM mailchimp_sync.campaign WHERE status = 'sent'
	ON CONFLICT DO NOTHING");
$page = $crm->mia('SELECT mc_reports_html()');
cmp_ok(length $page, '<', $limit, 'small with thousands of campaigns (' . length($page) . ')');
has($page, qr{and 2,927 more: <code>mc_report</code>}, 'the others are counted');
has($page, qr{3,002 sent, 3,000 not sent yet}, 'and all');
has($page, qr{and 2,980 more: <code>mc_campaign</code>}, 'those that wait, too');
$node->role('nobody_yet');
like($node->error('SELECT mc_reports_html()', as => 'nobody_yet'), qr/permission denied/, 'for readers alone');

$node->stop;
done_testing();
