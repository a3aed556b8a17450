# The page of a campaign and the overview of all (N16, R99, R107, R108): the figures are those of the report, what others wrote stays words,
# and the pages stay small whatever the size of a campaign. How they look is tested in a browser (test/browser).

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 400, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};
my $limit = 200 * 1024;

sub page { my ($campaign) = @_; return $crm->mia("SELECT mc_report_html($campaign)") }
sub cells { my ($page, $id) = @_; my ($section) = $page =~ m{<h2 id="$id">(.*?)</section>}s or return 'none';
	return join ' | ', map { s/<svg.*?<\/svg>|<[^>]+>//gr =~ s/&nbsp;/ /gr =~ s/&middot;/-/gr } $section =~ m{<tr>(.*?)</tr>}gs }

# every element that is opened is closed, in order
sub nested
{
	my ($html) = @_;
	my @open;
	for my $tag ($html =~ m{<(/?[a-z0-9]+)[^>]*?>}g)
	{
		next if $tag =~ /^(meta|rect)$/;
		if ($tag =~ s{^/}{}) { return "$tag closes @open" if !@open || pop(@open) ne $tag }
		else { push @open, $tag }
	}
	return "@open";
}

# ---- a campaign that nobody has asked about yet, and one that is no campaign

my $campaign = $crm->campaign('Draft', '{1,2}');
like(page($campaign), qr{<h1><bdi>Draft</bdi></h1>.*not sent: draft.*Mailchimp has not been asked for figures yet}s, 'a draft has a page, too');
like($node->error('SELECT mc_report_html(999)', as => 'mia'), qr/campaign 999 does not exist/, 'an unknown one has none');

# ---- N16: figures (R100-R108)

$campaign = $crm->campaign('Spring <script>alert(1)</script> & "more" \'\'quoted\'\'', '{' . join(',', 1 .. 400, 999) . '}');
$crm->mia("SELECT mc_opt_out('candidate', 400)");
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
$sim->post('/_sim/engage', { campaign => $crm->column($campaign, 'mailchimp_id'), opens => 0.6, clicks => 0.2, hard => 0.02, soft => 0.03,
		unsubscribes => 0.02, abuse => 0.01, span_seconds => 86400, links => [ 'https://www.example.org/', 'javascript:alert(2)',
			'https://www.example.org/?a="><img src=x onerror=alert(3)>&b=1' ] });
$crm->both_later(90000);
$crm->mia("SELECT mc_poll_campaign($campaign)");
McTest::poll('the figures', sub { $crm->mia("SELECT recorded_opened = total_opened AND recorded_clicked = total_clicked "
			. "AND total_clicked = (SELECT sum(clicks) FROM mc_report_links($campaign)) AND unsubscribed + complaints = "
			. "(SELECT count(*) FROM mc_activity WHERE campaign_id = $campaign AND type = 'unsubscribed') "
			. "FROM mc_report WHERE campaign_id = $campaign AND total_clicked > 0") eq 't' });
my $page = page($campaign);
my $truth = $sim->get('/_sim/truth/' . $crm->column($campaign, 'mailchimp_id'));
my $percent = sub { sprintf '%.1f %%', 100 * $_[0] / $_[1] };
is(nested($page), '', 'well-formed');
is(cells($page, 'funnel'), join(' | ', 'steppersonsshare', "sent399100.0 %", "delivered$truth->{delivered}" . $percent->($truth->{delivered}, 399),
		"opened$truth->{opens}{unique}" . $percent->($truth->{opens}{unique}, 399),
		"clicked$truth->{clicks}{unique}" . $percent->($truth->{clicks}{unique}, 399)), 'the funnel');
my ($tiles) = $page =~ m{<dl class="figures">(.*?)</dl>}s;
is(join('|', map { s/<[^>]+>/ /gr =~ s/&nbsp;/ /gr =~ s/ +/ /gr } $tiles =~ m{<div>(.*?)</div>}g), join('|', ' Sent 399 2 skipped ',
		" Opened by $truth->{opens}{unique} " . $percent->($truth->{opens}{unique}, $truth->{delivered}) . ", $truth->{opens}{total} opens ",
		" Clicked by $truth->{clicks}{unique} " . $percent->($truth->{clicks}{unique}, $truth->{delivered}) . ", $truth->{clicks}{total} clicks ",
		' Bounced ' . ($truth->{hard_bounces} + $truth->{soft_bounces}) . " $truth->{hard_bounces} for good ",
		" Unsubscribed $truth->{unsubscribed} $truth->{complaints} complained "), 'the figures (R100-R106, R108)');
is(cells($page, 'bounces'), "domainhardsoft | example.org$truth->{hard_bounces}$truth->{soft_bounces}", 'bounces by domain and kind');
is(scalar(() = cells($page, 'unsubscribed') =~ / \| /g), $truth->{unsubscribed} + $truth->{complaints}, 'who unsubscribed');
is(cells($page, 'skipped'), 'whypersons | has no address1 | opted out1', 'who was not mailed, and why');
my ($opens, $clicks) = (0, 0);
($opens += $1, $clicks += $2) while $page =~ m{</time></th><td class="n">(\d+)</td><td class="n">(\d+)</td>}g;
is("$opens $clicks", "$truth->{opens}{total} $truth->{clicks}{total}", 'the table behind the chart has all opens and clicks');
like($page, qr{<a href="https://us1\.admin\.mailchimp\.com/reports/summary\?id=\d+"[^>]*><bdi>the report at Mailchimp</bdi></a>}, 'R107: the way to the report at Mailchimp');

# ---- foreign words

like($page, qr{<h1><bdi>Spring &lt;script&gt;alert\(1\)&lt;/script&gt; &amp; &quot;more&quot; &#39;quoted&#39;</bdi></h1>}, 'the subject is words');
unlike(join('', $page =~ /<[^>]*>/g), qr{<(?:script|img|iframe|link|object|form)|href="(?!https://)| on\w+=| src=|url\(|\@import}i, 'no script, no asset, no other link');
is(cells($page, 'links') =~ /javascript:alert\(2\)/ ? 'as words' : '', 'as words', 'a link that is none is shown as words');
like($page, qr{default-src 'none'; style-src 'unsafe-inline'}, 'nothing else may be fetched');

# ---- N16: the largest page that others can make

my $big = $crm->campaign('x', '{1}');
$crm->super(<<"SQL");
UPDATE mailchimp_sync.campaign SET name = repeat('"', 5000), from_name = repeat('''', 5000), status = 'preparing' WHERE campaign_id = $big;
UPDATE mailchimp_sync.campaign SET status = 'sent', sent_at = now() WHERE campaign_id = $big;
INSERT INTO mailchimp_sync.report_link SELECT $big, i::text, 'https://' || i || repeat('''', 285), i, i, now() FROM generate_series(1, 2000) i;
INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, email, reason, bounce_type, recorded_at)
SELECT $big, md5(i::text), t.type, now() + i * interval '1 minute', '', 1, repeat('&', 500) || '\@' || repeat('"', 300) || i % 500, repeat('<', 2000), t.kind, now()
FROM generate_series(1, 3000) i, (VALUES ('unsubscribed', NULL), ('bounced', 'hard'), ('opened', NULL)) AS t(type, kind);
INSERT INTO mailchimp_sync.report SELECT $big, 1e9, 1e9, 1e9, 1e9, 1e9, 0, 0, 0, 1e9, 1e9, now();
SQL
$page = page($big);
cmp_ok(length $page, '<', $limit, 'small, though everything about it is as long as can be');
is(nested($page), '', 'and well-formed');
like($page, qr{1,975 more: mc_report_links\($big\)}, 'what is left out is counted');

# ---- R99: the overview

$page = $crm->mia('SELECT mc_reports_html()');
is(nested($page), '', 'the overview is well-formed');
is(scalar(() = $page =~ m{<tr><th scope="row">}g), 2, 'every campaign that was sent');
like($page, qr{&lt;script&gt;alert}, 'by name');
$crm->super("INSERT INTO mailchimp_sync.campaign (connection, list_id, name, status, marker, created_at, created_by, sent_at, mailchimp_id, web_id)
	SELECT 'demo', 'x', repeat('&', 500), 'sent', 'marker' || i, now(), 'x', now(), 'x' || i, i FROM generate_series(1, 3000) i");
$page = $crm->mia('SELECT mc_reports_html()');
cmp_ok(length $page, '<', $limit, 'small with thousands of campaigns');
like($page, qr{2,902 more: mc_report}, 'the others are counted');
$node->role('nobody_yet');
like($node->error('SELECT mc_reports_html()', as => 'nobody_yet'), qr/permission denied/, 'for readers alone');

$node->stop;
done_testing();
